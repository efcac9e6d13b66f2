"""The engine that runs the stages of ``detxai coco`` over Ray, and writes the same files as the local one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from detxai.coco.on_ray.cluster import connected, gpus_per_worker, worker_count
from detxai.coco.on_ray.detector_source import DetectorSource
from detxai.coco.on_ray.pipeline import Pipeline
from detxai.coco.on_ray.worker import DetectWork, ExplainedImage, ExplainTask, ExplainWork, Work, WorkerSpec
from detxai.coco.options import RayOptions
from detxai.coco.parts.image_explainer import Row
from detxai.coco.parts.maker import PartMaker, hashes_of
from detxai.coco.parts.packing import in_order
from detxai.coco.parts.plan import Job, Part
from detxai.coco.parts.prediction_chunks import PredictionChunks, chunked, count
from detxai.data.image_files import ImageFile
from detxai.runs.failures import AllFailedError, FailureGuard
from detxai.runs.interrupting import raise_if_interrupted

BUILT_BY_WORKERS: Any = None  # in place of the detector, which does not leave this process


class RayEngine:
    """Spreads the images of a run over workers; Ray is started when the first is needed.

    Args:
        options: which cluster, and what of it.
        workers: processes that hold the detector; None: as many as there is room for.
        source: what they build the detector from.
        fingerprint: of the detector.
        device: where a worker without a GPU of its own brings the detector; None: where it is.
    """

    def __init__(
        self,
        options: RayOptions,
        workers: int | None,
        source: DetectorSource,
        fingerprint: str | None,
        device: str | None = None,
    ) -> None:
        self._options, self._workers, self._source, self._device = options, workers, source, device
        self._fingerprint = fingerprint
        self._opened = ExitStack()
        self._pipeline: Pipeline | None = None

    def make_chunks(self, chunks: PredictionChunks, files: Sequence[ImageFile], first: int) -> Iterator[int]:
        """See ``detxai.coco.parts.engines.Engine``."""
        guard, made = FailureGuard(), []
        missing: dict[int, Sequence[ImageFile]] = {}
        for number, some in enumerate(chunked(files)):
            kept = chunks.read(number)
            if kept is None:
                missing[number] = some
                continue
            if kept["images"]:
                guard.succeeded()
            yield len(some)
        work = DetectWork(replace(chunks.image_detector, detector=BUILT_BY_WORKERS))
        tasks = [(file, list(chunks.annotations_of(file))) for some in missing.values() for file in some]
        waiting = _Groups({number: len(some) for number, some in missing.items()})
        try:
            for place, answer in self._answers(work, tasks):
                count(guard, tasks[place][0], answer)
                complete = waiting.take(place, answer)
                if complete is None:
                    continue
                chunks.write(complete, missing[complete], waiting.pop(complete))
                made.append(complete)
                chunks.expect_some_success(guard, complete, len(files))
                yield len(missing[complete])
        except AllFailedError:
            chunks.remove(made)
            raise

    def make_parts(self, maker: PartMaker, parts: Sequence[Part], tick: Callable[[int], object]) -> None:
        """See ``detxai.coco.parts.engines.Engine``."""
        guard = FailureGuard()
        if maker.folder.has_rows():
            guard.succeeded()
        try:
            self._make_parts(maker, parts, tick, guard)
        except AllFailedError:
            for part in parts:
                maker.folder.remove_part(part.number)
            raise

    def _make_parts(
        self, maker: PartMaker, parts: Sequence[Part], tick: Callable[[int], object], guard: FailureGuard
    ) -> None:
        jobs = [job for part in parts for job in part.jobs]
        waiting = _Groups({part.number: len(part.jobs) for part in parts})
        for place, (result, reused) in self._explained(maker, jobs):
            job = jobs[place]
            if result.rows or reused:
                guard.succeeded()
            else:
                guard.failed(f"{job.file.file_name}: {result.failures[-1]['reason']}")
            number = waiting.take(place, (result, reused))
            if number is not None:
                results = waiting.pop(number)
                rows = [row for explained, old in results for row in [*old, *explained.rows]]
                failures = [row for explained, _ in results for row in explained.failures]
                maker.folder.write_part(number, in_order(rows), failures)
            tick(len(job.queries))

    def _explained(
        self, maker: PartMaker, jobs: Sequence[Job]
    ) -> Iterator[tuple[int, tuple[ExplainedImage, Sequence[Row]]]]:
        """For each job what was explained now, and the rows that were there already."""
        tasks, places = [], []
        for place, job in enumerate(jobs):
            known = hashes_of(maker.archived_rows(job))
            if len(known) == len(job.queries):
                yield place, (ExplainedImage(), maker.archived_rows(job))
            else:
                tasks.append((job.file, ExplainTask(job, known)))
                places.append(place)
        work = ExplainWork(replace(maker.explainer, detector=BUILT_BY_WORKERS), maker.map_stride)
        for number, answer in self._answers(work, tasks):
            place = places[number]
            reused = maker.archived_rows(jobs[place]) if answer.same_picture and tasks[number][1].known else []
            yield place, (answer, reused)

    def _answers(self, work: Work, tasks: Sequence[tuple[ImageFile, Any]]) -> Iterator[tuple[int, Any]]:
        if not tasks:
            return
        pipeline = self._connected()
        device = "cuda" if pipeline.gpus else self._device
        spec = WorkerSpec(self._source, self._fingerprint, work, device)
        for place, answer in pipeline.answers(spec, tasks):
            raise_if_interrupted()
            yield place, answer

    def _connected(self) -> Pipeline:
        if self._pipeline is None:
            ray = self._opened.enter_context(connected(self._options, self._workers))
            workers = worker_count(ray, self._options, self._workers)
            self._pipeline = Pipeline(ray, workers, gpus_per_worker(ray, self._options))
        return self._pipeline

    def close(self) -> None:
        """Stop the Ray that was started."""
        self._opened.close()


@dataclass
class _Groups:
    """Answers that wait until all of their file are there: chunks and parts, whose items come in any order.

    Attributes:
        sizes: file's number -> how many items, which follow one another in the order of the files.
    """

    sizes: dict[int, int]
    _held: dict[int, dict[int, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._group_of = [number for number, size in self.sizes.items() for _ in range(size)]

    def take(self, place: int, answer: Any) -> int | None:
        """Hold an answer; the number of its file where that is complete now."""
        number = self._group_of[place]
        held = self._held.setdefault(number, {})
        held[place] = answer
        return number if len(held) == self.sizes[number] else None

    def pop(self, number: int) -> list[Any]:
        """The answers of a complete file, in the order of its items."""
        held = self._held.pop(number)
        return [held[place] for place in sorted(held)]
