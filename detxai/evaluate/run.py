"""Every method on the same detections: the front door of an evaluation, and the files that it leaves."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from detxai.adapters.detector import Detector
from detxai.adapters.registry import wrap
from detxai.evaluate.contestants import Contestant, Methods, contestants
from detxai.evaluate.evaluation_run import EvaluationRun
from detxai.evaluate.folder import EvaluationFolder
from detxai.evaluate.measuring import make_measures
from detxai.evaluate.photos.photo import Photo
from detxai.evaluate.photos.selection import draw_photos
from detxai.evaluate.results.records import Record, quantities_of, write_parquet
from detxai.evaluate.results.report import write_report
from detxai.evaluate.results.summary import Summary
from detxai.evaluate.results.time_left import TimeLeft
from detxai.explain import check_threshold
from detxai.explanation import plain, settings_of
from detxai.metrics import Measure
from detxai.progress import hides_bar
from detxai.runs.files import write_json
from detxai.runs.interrupting import stops_on_ctrl_c
from detxai.runs.names import record_of_names
from detxai.runs.tables import import_pyarrow


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes:
        out: its folder, with ``results.parquet``, ``summary.json``, ``failures.json`` and ``index.html``.
        records: one for each detection and method.
        summary: the rankings.
        failures: ``image``, ``method`` (None: all of them) and ``error``; tried again when the request is repeated.
            An image that cannot be read is in no figure.
        request: what was requested.
    """

    out: Path
    records: Sequence[Record]
    summary: Summary
    failures: Sequence[Mapping[str, str | None]]
    request: Mapping[str, Any]


def evaluate(
    detector: Detector | Any,
    photos: Sequence[Photo],
    methods: Methods,
    out: str | PathLike[str],
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    measures: Sequence[str | Measure] | None = None,
    max_images: int | None = None,
    max_detections: int | None = None,
    score_threshold: float = 0.25,
    unmatched: bool = False,
    seed: int = 0,
    source: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    on_estimate: Callable[[TimeLeft], None] | None = None,
) -> Evaluation:
    """Rank explanation methods on a detector and images.

    Every method explains the same detections, and its maps are measured in the same way. What is finished is kept,
    detection by detection, in ``out/parts``: the same call goes on from there, whenever it was stopped.

    Args:
        detector: from ``detxai.wrap``, or anything ``wrap`` takes.
        photos: from ``coco_photos`` or ``scene_photos``.
        methods: names, methods, or a mapping from names to either: see ``contestants``.
        out: the folder.
        settings: name of a method -> its settings.
        measures: names or measures, see ``make_measures``; default: all but the costly ones.
        max_images: a seeded sample of so many images; None: all.
        max_detections: a seeded sample of so many detections, drawn over all images; None: all.
        score_threshold: in [0, 1]; the detections are the detector's own above it.
        unmatched: take also detections that are of no annotated object.
        seed: of the samples and the bootstrap.
        source: where the photos come from, for the record.
        progress: a bar; None: where standard error is a terminal.
        on_estimate: told, once, how long the rest will take, after the first image that is not finished yet.

    Raises:
        ValueError: a setting is wrong, ``out`` holds another evaluation, there is nothing to measure, every image
            failed, or the first twenty did.
        WriteError: ``out`` cannot be written to; what is finished is kept.
        ImportError: pyarrow is not installed.
    """
    import_pyarrow()
    competing = contestants(methods, settings)
    taken = make_measures(measures)
    quantities_of(taken)
    check_threshold(score_threshold)
    _check_sample(max_images, max_detections, seed)
    adapter = wrap(detector)
    chosen = draw_photos(photos, max_images, seed)
    request = {
        **_request(adapter, chosen, competing, taken),
        "max_images": max_images,
        "max_detections": max_detections,
        "score_threshold": score_threshold,
        "unmatched": unmatched,
        "seed": seed,
        "source": plain(dict(source or {})),
    }
    folder = EvaluationFolder.for_request(out, request)
    run = EvaluationRun(adapter, chosen, competing, taken, folder, hides_bar(progress), on_estimate)
    with stops_on_ctrl_c():
        records = list(run.records(run.select(score_threshold, max_detections, seed, unmatched=unmatched)))
    if not records:
        raise ValueError(f"every image failed; the first, {run.failures[0]['image']}: {run.failures[0]['error']}")
    summary = Summary(records, taken, seed)
    evaluation = Evaluation(run.folder.root, records, summary, tuple(run.failures), request)
    _write(evaluation, {name: _settings(method) for name, method in competing.items()}, chosen)
    return evaluation


def _check_sample(max_images: int | None, max_detections: int | None, seed: int) -> None:
    for name, value in (("max_images", max_images), ("max_detections", max_detections)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number from 1, or None, got {value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0, got {seed!r}")


def _request(
    detector: Detector, photos: Sequence[Photo], methods: Mapping[str, Contestant], measures: Sequence[Measure]
) -> dict[str, Any]:
    return {
        "detxai": importlib.metadata.version("detxai"),
        "torch": torch.__version__,
        "model": {name: value for name, value in plain(detector.describe()).items() if name != "weights"},
        "weights": detector.fingerprint(),
        "class_names": plain(detector.class_names),
        "device": detector.device.type,
        "photos": record_of_names([photo.name for photo in photos]),
        "methods": {name: {"method": method.name, **_settings(method)} for name, method in methods.items()},
        "measures": {measure.name: settings_of(measure) for measure in measures},
    }


def _settings(method: Contestant) -> dict[str, Any]:
    return {name: value for name, value in settings_of(method).items() if name != "progress"}


def _write(evaluation: Evaluation, settings: Mapping[str, Mapping[str, Any]], photos: Sequence[Photo]) -> None:
    out, summary = evaluation.out, evaluation.summary
    write_parquet(out / "results.parquet", evaluation.records, summary.measures, settings)
    for name, content in (("summary.json", summary.as_json()), ("failures.json", list(evaluation.failures))):
        write_json(out / name, content)
    write_report(out / "index.html", summary, photos, evaluation.request, evaluation.failures)
