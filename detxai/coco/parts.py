"""The parts of a dataset, made one after the other: images read, boxes explained, rows written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detxai.coco.asking import Answer, Asker, Pixels
from detxai.coco.folder import CocoFolder
from detxai.coco.plan import Job, Part
from detxai.coco.recording import Recorder
from detxai.coco.reusing import ArchivedRows
from detxai.coco.rows import UnreadableImageError, image_failure
from detxai.data.image_files import decoded
from detxai.runs.failures import AllFailedError, FailureGuard
from detxai.runs.interrupting import raise_if_interrupted


@dataclass(frozen=True)
class Explaining:
    """What making parts needs.

    Attributes:
        asker: explains the boxes of an image.
        folder: of the run.
        map_stride: image pixels to a stored one.
        workers: see ``detxai.data.image_files.decoded``.
        archive: where to look first.
    """

    asker: Asker
    folder: CocoFolder
    map_stride: int = 1
    workers: int = 0
    archive: ArchivedRows | None = None

    def make(self, parts: Sequence[Part], tick: Callable[[int], object] = lambda n: None) -> None:
        """Make these parts, whether they are there or not.

        Args:
            parts: of the plan.
            tick: called after each image with how many boxes of it were asked about.

        Raises:
            AllFailedError: the first images all failed, so that the request is at fault, not they; then no part of
                them is kept.
            WriteError: a part cannot be written; those that are there are whole.
        """
        try:
            self._make(parts, tick)
        except AllFailedError:
            for part in parts:
                self.folder.remove_part(part.number)
            raise

    def _make(self, parts: Sequence[Part], tick: Callable[[int], object]) -> None:
        images = decoded([job.file for part in parts for job in part.jobs], self.workers)
        guard = FailureGuard()
        if self.folder.has_rows():
            guard.succeeded()
        with Recorder(self.folder, self.map_stride) as recorder:
            for part in parts:
                for job in part.jobs:
                    _, image = next(images)
                    answer = self._answer(job, image)
                    if answer.rows or answer.ready:
                        guard.succeeded()
                    else:
                        guard.failed(f"{job.file.file_name}: {answer.failures[-1]['reason']}")
                    raise_if_interrupted()
                    recorder.take(answer)
                    tick(len(job.asked))
                recorder.finish(part.number)

    def _answer(self, job: Job, image: Pixels | str) -> Answer:
        """The explanations of an image, or the failure that it could not be read."""
        ready = None if self.archive is None else self.archive.rows(job)
        if ready is not None:
            return Answer([], [], [], ready=ready)
        if not isinstance(image, str):
            return self.asker.ask(job.file, image, job.asked)
        unreadable = UnreadableImageError(image)
        if self.asker.fail_fast:
            raise unreadable
        return Answer([], [], [image_failure(job.file, "reading", unreadable, len(job.asked))])
