"""The parts of a dataset, made one after the other: images read, boxes explained, rows written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from detxai.coco.folder import CocoFolder, UnreadableImageError, failure_row
from detxai.coco.parts.archive import ArchivedRows
from detxai.coco.parts.image_explainer import ImageExplainer, ImageResult, Row
from detxai.coco.parts.plan import Job, Part
from detxai.coco.parts.recorder import Recorder
from detxai.data.image_files import Pixels, decoded
from detxai.images import pixels_sha256
from detxai.runs.failures import AllFailedError, FailureGuard
from detxai.runs.interrupting import raise_if_interrupted


@dataclass(frozen=True)
class PartMaker:
    """Makes the parts of a dataset.

    Attributes:
        explainer: explains the boxes of an image.
        folder: of the run.
        map_stride: image pixels to a stored one.
        workers: see ``detxai.data.image_files.decoded``.
        archive: rows that need not be made again.
    """

    explainer: ImageExplainer
    folder: CocoFolder
    map_stride: int = 1
    workers: int = 0
    archive: ArchivedRows | None = None

    def make(self, parts: Sequence[Part], tick: Callable[[int], object] = lambda n: None) -> None:
        """Make these parts, whether they are there or not.

        Args:
            parts: of the plan.
            tick: called after each image with how many of its boxes are done.

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
                    result = self._result(job, image)
                    if result.rows or result.reused:
                        guard.succeeded()
                    else:
                        guard.failed(f"{job.file.file_name}: {result.failures[-1]['reason']}")
                    raise_if_interrupted()
                    recorder.take(result)
                    tick(len(job.queries))
                recorder.finish(part.number)

    def _result(self, job: Job, image: Pixels | str) -> ImageResult:
        """The explanations of an image, or the failure that it could not be read."""
        reused = self.archived_rows(job)
        if len(reused) == len(job.queries):
            return ImageResult(reused=reused)
        return with_reused(explain_rest(self.explainer, job, image, hashes_of(reused)), reused)

    def archived_rows(self, job: Job) -> list[Row]:
        """The rows of this image that need not be made again, where it is still the same picture."""
        return [] if self.archive is None else self.archive.rows(job)


def explain_rest(
    explainer: ImageExplainer, job: Job, image: Pixels | str, known: Mapping[int, str | None]
) -> ImageResult:
    """The explanations of those boxes of an image that are not known yet, or the failure that it could not be read.

    Args:
        explainer: explains the boxes of an image.
        job: the image and its boxes.
        image: its pixels, or why they could not be read.
        known: row -> ``image_sha256`` of the rows that are there already.

    Returns:
        The result; its ``same_picture`` is False where what is known is of another picture: then all is made anew.
    """
    if isinstance(image, str):
        unreadable = UnreadableImageError(image)
        if explainer.fail_fast:
            raise unreadable
        return ImageResult(failures=[failure_row(job.file, "reading", unreadable, len(job.queries) - len(known))])
    same = all(sha256 == pixels_sha256(image) for sha256 in list(known.values())[:1])
    queries = [query for query in job.queries if not same or query.row not in known]
    return replace(explainer.explain(job.file, image, queries), same_picture=same)


def hashes_of(rows: Sequence[Row]) -> dict[int, str | None]:
    """Row -> ``image_sha256``."""
    return {row["row"]: row["image_sha256"] for row in rows}


def with_reused(result: ImageResult, rows: Sequence[Row]) -> ImageResult:
    """The result with the rows that were there already, where they are of the same picture."""
    return replace(result, reused=rows if result.same_picture else ())
