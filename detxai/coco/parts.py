"""The parts of a dataset, made one after the other: images read, boxes explained, rows written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detxai.coco.asking import Answer, Asker, Pixels
from detxai.coco.decoding import decoded
from detxai.coco.folder import Folder
from detxai.coco.planning import Job, Part
from detxai.coco.recording import Recorder
from detxai.coco.reusing import Earlier
from detxai.coco.rows import failure

HOPELESS = 10  # so many images failing one after the other from the start are no accident


@dataclass(frozen=True)
class Explaining:
    """What making parts needs.

    Attributes:
        asker: explains the boxes of an image.
        folder: of the run.
        map_stride: image pixels to a stored one.
        workers: see ``detxai.coco.decoding.decoded``.
        overlays: also write a picture of each explanation.
        earlier: where to look first; None: nowhere.
    """

    asker: Asker
    folder: Folder
    map_stride: int = 1
    workers: int = 0
    overlays: bool = False
    earlier: Earlier | None = None

    def make(self, parts: Sequence[Part], tick: Callable[[int], object] = lambda n: None) -> None:
        """Make these parts, whether they are there or not.

        Args:
            parts: of the plan.
            tick: called after each image with how many boxes of it were asked about.

        Raises:
            ValueError: the first images all failed, so that the question is at fault, not they.
        """
        recorder = Recorder(self.folder, self.map_stride, overlays=self.overlays)
        images = decoded([job.file for part in parts for job in part.jobs], self.workers)
        luck = _Luck()
        with recorder:
            for part in parts:
                for job in part.jobs:
                    _, image = next(images)
                    answer = self._answer(job, image)
                    luck.expect(answer)
                    recorder.take(answer)
                    tick(len(job.asked))
                recorder.finish(part.number)

    def _answer(self, job: Job, image: Pixels | str) -> Answer:
        """The explanations of an image, or the failure that it could not be read."""
        ready = None if self.earlier is None else self.earlier.rows(job)
        if ready is not None:
            return Answer([], [], [], ready=ready)
        if not isinstance(image, str):
            return self.asker.ask(job.file, image, job.asked)
        if self.asker.fail_fast:
            raise ValueError(image)
        return Answer([], [], [failure(job.file, "reading", image, len(job.asked))])


class _Luck:
    """Stops a run whose every image fails from the start: then the question is at fault, not the images."""

    def __init__(self) -> None:
        self.n_failed: int | None = 0

    def expect(self, answer: Answer) -> None:
        if answer.rows or answer.ready:
            self.n_failed = None
        elif self.n_failed is not None and answer.failures[-1]["step"] == "explaining":
            self.n_failed += 1
            if self.n_failed == HOPELESS:
                raise ValueError(f"the first {HOPELESS} images all failed: {answer.failures[-1]['reason']}")
