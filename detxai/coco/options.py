"""How a run works, and what it returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from detxai.explain import check_threshold
from detxai.progress import hides_bar
from detxai.runs.remote.address import Address
from detxai.runs.shards import Shard
from detxai.settings import LARGEST

EngineName = Literal["local", "ray"]


@dataclass(frozen=True)
class RayOptions:
    """Which Ray an ``engine="ray"`` uses, and what of it.

    Args:
        address: of a running cluster, ``auto`` for the one of this machine, ``ray://host:10001`` for Ray's client
            server; None: Ray is started on this machine for the run, and stopped at its end.
        gpus_per_worker: GPUs of each worker; a share such as 0.5 lets two share one; None: 1 where the cluster has
            any, else 0.
    """

    address: str | None = None
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        gpus = self.gpus_per_worker
        if gpus is None:
            return
        if isinstance(gpus, bool) or not isinstance(gpus, (int, float)) or not 0 <= gpus <= 64:
            raise ValueError(f"gpus_per_worker must be a number from 0 to 64, got {gpus!r}")
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_worker must be a share of one GPU or a whole number of them, got {gpus!r}")


@dataclass(frozen=True)
class Options:
    """How a run works; which boxes it explains is ``detxai.coco.Selection``.

    Args:
        iou: IoU threshold for a match of prediction and annotation; one of the evaluation's.
        operating_point: the one score from which a prediction counts: what it finds there is found, what it does not is
            missed, and both are explained; an object that only a weaker prediction finds is missed. AP is of all
            predictions. Nothing lies below ``score_threshold``: where that is higher, it is the operating point.
        score_threshold: down to which predictions are made, for the sake of AP; None: 0.001, or, where predictions
            come from a file, the lowest score in it.
        map_stride: image pixels to a stored one; 1 keeps the image's resolution. ``"layer"``: the cells of the finest
            layer explained, or, where the method explains none, of the detector's own.
        rows_per_part: about how many explanations a killed run loses at most.
        shard: which parts this process does; all shards write into one folder, or their folders are merged.
        engine: ``local``: this process runs the detector; ``ray``: workers of a Ray cluster do (extra ``ray``), and
            this process writes what they answer.
        ray: which cluster, and what of it.
        workers: with engine ``ray``, processes that hold the detector; None: one for each GPU, or, without any, for
            each processor. With engine ``local``, threads that decode images ahead; None: 2 where the detector is on an
            accelerator, else 0, as they would only take the processor away from the model.
        overlays: also write a picture of each explanation, drawn from the dataset: a finished run gets them too.
        report: write ``report.html`` once all parts are there.
        widen: the folder may hold a run with a narrower selection, and all else equal: what it explained stays, and
            only what is new is explained.
        fail_fast: stop at the first failure.
        retry_failed: explain what failed. Where images failed while predictions were made, make these too; what is
            explained stays where the same boxes are still to be explained.
        progress: bars; None: where standard error is a terminal.
    """

    iou: float = 0.5
    operating_point: float = 0.25
    score_threshold: float | None = None
    map_stride: int | Literal["layer"] = 1
    rows_per_part: int = 32
    shard: Shard = field(default_factory=Shard)
    engine: EngineName = "local"
    ray: RayOptions = field(default_factory=RayOptions)
    workers: int | None = None
    overlays: bool = False
    report: bool = True
    widen: bool = False
    fail_fast: bool = False
    retry_failed: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.engine not in get_args(EngineName):
            raise ValueError(f"engine must be one of {', '.join(get_args(EngineName))}, got {self.engine!r}")
        if self.engine == "ray" and self.workers == 0:
            raise ValueError("workers must be a whole number from 1 with engine ray, got 0")
        if self.engine == "local" and self.ray != RayOptions():
            raise ValueError(f"{self.ray} is for engine ray, got engine local")
        if self.score_threshold is not None:
            check_threshold(self.score_threshold)
        if not isinstance(self.operating_point, (int, float)) or not math.isfinite(self.operating_point):
            raise ValueError(f"operating_point must be a finite score, got {self.operating_point}")
        if isinstance(self.iou, bool) or not isinstance(self.iou, (int, float)) or not 0 < self.iou <= 1:
            raise ValueError(f"iou must be a number in (0, 1], got {self.iou!r}")
        most = {"map_stride": 65_536, "rows_per_part": LARGEST, "workers": 4096 if self.engine == "ray" else 256}
        for name, least in (("map_stride", 1), ("rows_per_part", 1), ("workers", 0)):
            given = getattr(self, name)
            if name == "map_stride" and given == "layer":
                continue
            whole = isinstance(given, int) and not isinstance(given, bool)
            if given is not None and not (whole and least <= given <= most[name]):
                raise ValueError(f"{name} must be a whole number from {least} to {most[name]}, got {given!r}")

    def bar(self, total: int, done: int, unit: str, what: str) -> tqdm:
        return tqdm(total=total, initial=done, unit=unit, desc=what, disable=hides_bar(self.progress), smoothing=0.1)


@dataclass(frozen=True)
class Finished:
    """What a run returns.

    Attributes:
        folder: where everything is. Of a run at an address, the temporary one, which is gone by now.
        evaluation: AP, by class too, and how many boxes are of each kind: the content of ``evaluation.json``.
        n_selected: boxes to explain, in all shards.
        n_explained: of these, how many are explained, in all shards so far.
        failures: rows of ``failures.parquet``.
        complete: whether every part is there, in all shards.
        address: where everything is, if the run was given an address.
    """

    folder: Path
    evaluation: Mapping[str, Any]
    n_selected: int
    n_explained: int
    failures: Sequence[Mapping[str, Any]]
    complete: bool
    address: Address | None = None


def expect_whole(out: Path | Address, options: Options) -> None:
    """Raise ``ValueError`` where one of several shards is to write to an address.

    Shards share a folder by creating each file where there is none yet, which object storage cannot do.
    """
    if isinstance(out, Address) and options.shard.of > 1:
        raise ValueError(
            f"out: shards share a folder on a disk, got the address {out}; give each shard a folder of its own and "
            "merge them (detxai coco merge), or spread the run with engine ray"
        )
