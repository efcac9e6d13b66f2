"""What runs in a worker: boxes detected and explained by a detector that is built once."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from detxai.adapters.detector import Detector
from detxai.adapters.network import module_of
from detxai.coco.folder import failure_row
from detxai.coco.on_ray.attempts import MAX_DEATHS, Attempts, WorkerKilledError
from detxai.coco.on_ray.detector_source import DetectorSource
from detxai.coco.on_ray.reading import Batch, bytes_column
from detxai.coco.parts.image_detector import Annotation, DetectedImage, ImageDetector
from detxai.coco.parts.image_explainer import ImageExplainer, Row
from detxai.coco.parts.maker import explain_rest
from detxai.coco.parts.packing import packed_rows
from detxai.coco.parts.plan import Job
from detxai.data.image_files import ImageFile, Pixels


class Work(Protocol):
    """What is done with each image of a stage."""

    def with_detector(self, detector: Detector, moved_paths: Mapping[str, str]) -> Work:
        """The same, with the detector that the worker built, maybe from files that stand elsewhere here."""
        ...

    def do(self, file: ImageFile, image: Pixels | str, task: Any) -> Any:
        """The answer for one image: of its pixels, or of why they could not be read."""
        ...

    def killed(self, file: ImageFile, task: Any, error: Exception) -> Any:
        """The answer for an image at which workers died."""
        ...


@dataclass(frozen=True)
class DetectWork:
    """First stage: the task is the annotations of the image."""

    image_detector: ImageDetector

    def with_detector(self, detector: Detector, moved_paths: Mapping[str, str]) -> DetectWork:
        return DetectWork(replace(self.image_detector, detector=detector))

    def do(self, file: ImageFile, image: Pixels | str, task: Sequence[Annotation]) -> DetectedImage:
        return self.image_detector.detect(file, image, task)

    def killed(self, file: ImageFile, task: Sequence[Annotation], error: Exception) -> DetectedImage:
        if self.image_detector.fail_fast:
            raise error
        return DetectedImage(failure=failure_row(file, "detecting", error, 0))


@dataclass(frozen=True)
class ExplainTask:
    """An image's boxes, and which of them are explained already: row -> ``image_sha256``."""

    job: Job
    known: Mapping[int, str | None]


@dataclass(frozen=True)
class ExplainedImage:
    """Rows of the dataset with their maps; ``same_picture`` as in ``ImageResult``."""

    rows: Sequence[Row] = ()
    failures: Sequence[Row] = ()
    same_picture: bool = True


@dataclass(frozen=True)
class ExplainWork:
    """Third stage."""

    explainer: ImageExplainer
    map_stride: int
    moved_paths: Mapping[str, str] = field(default_factory=dict)

    def with_detector(self, detector: Detector, moved_paths: Mapping[str, str]) -> ExplainWork:
        return replace(self, explainer=replace(self.explainer, detector=detector), moved_paths=moved_paths)

    def do(self, file: ImageFile, image: Pixels | str, task: ExplainTask) -> ExplainedImage:
        result = explain_rest(self.explainer, task.job, image, task.known)
        rows = [row | {"model": self._as_started(row["model"])} for row in packed_rows(result, self.map_stride)]
        return ExplainedImage(rows, result.failures, result.same_picture)

    def _as_started(self, model: str) -> str:
        """The record of the model with the paths of the machine that started the run."""
        for here, there in self.moved_paths.items():
            model = model.replace(here, there)
        return model

    def killed(self, file: ImageFile, task: ExplainTask, error: Exception) -> ExplainedImage:
        if self.explainer.fail_fast:
            raise error
        n_boxes = len(task.job.queries) - len(task.known)
        return ExplainedImage(failures=[failure_row(file, "explaining", error, n_boxes)])


@dataclass(frozen=True)
class Raised:
    """In place of an answer: what ends the run."""

    error: Exception


@dataclass(frozen=True)
class WorkerSpec:
    """What every worker of a stage is built from.

    Attributes:
        source: of the detector.
        fingerprint: of the detector that the run was begun with; a worker's must be the same.
        work: what is done with each image, still without its detector.
        device: where the detector is brought, if it is a network; None: where it is.
        threads: of torch, in each worker.
    """

    source: DetectorSource
    fingerprint: str | None
    work: Work
    device: str | None = None
    threads: int = 1


class Worker:
    """Holds the detector; called with one batch of images after the other."""

    def __init__(self, load_spec: Callable[[], WorkerSpec], attempts: Attempts) -> None:
        self._attempts = attempts
        self._work: Work | Raised
        try:
            self._work = _work_with_detector(load_spec())
        except Exception as error:  # raised in here, Ray would start one worker after the other
            self._work = Raised(_picklable(error))

    def __call__(self, batch: Batch) -> Batch:
        answers = [self._answer(place, batch) for place in range(len(batch["place"]))]
        return {"place": batch["place"], "answer": _pickled_column(answers)}

    def _answer(self, row: int, batch: Batch) -> Any:
        if isinstance(self._work, Raised):
            return self._work
        file, task = pickle.loads(batch["task"][row])  # noqa: S301  made by this run's own driver
        image = _image(batch, row)
        what = f"explaining {file.image_id}"
        deaths = self._attempts.begin(what)
        try:
            if deaths >= MAX_DEATHS:
                return self._work.killed(file, task, WorkerKilledError(deaths))
            return self._work.do(file, image, task)
        except Exception as error:
            return Raised(_picklable(error))
        finally:
            self._attempts.end(what)


def _work_with_detector(spec: WorkerSpec) -> Work:
    torch.set_num_threads(spec.threads)
    detector = spec.source.build()
    if detector.fingerprint() != spec.fingerprint:
        raise ValueError(
            "model: a worker built a detector with other weights than the run was begun with; a factory must return "
            "the same weights in every process"
        )
    if spec.device is not None and detector.network is not None:
        module_of(detector).to(torch.device(spec.device))
    return spec.work.with_detector(detector, spec.source.moved_paths())


def _image(batch: Batch, row: int) -> Pixels | str:
    if batch["unreadable"][row]:
        return str(batch["unreadable"][row])
    shape = int(batch["height"][row]), int(batch["width"][row]), 3
    return np.frombuffer(batch["pixels"][row], dtype=np.uint8).reshape(shape).copy()  # some models write into it


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  made in this line
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _pickled_column(values: Sequence[Any]) -> Any:
    return bytes_column([pickle.dumps(value) for value in values])
