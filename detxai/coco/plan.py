"""The work of a run, cut into parts in the same way however many processes do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from detxai.coco.asking import Asked
from detxai.data.error_kinds import Case
from detxai.data.image_files import ImageFile


@dataclass(frozen=True)
class Job:
    """One image and the boxes in it to explain."""

    file: ImageFile
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Part:
    """The jobs whose explanations go into one file."""

    number: int
    jobs: tuple[Job, ...]

    @property
    def n_boxes(self) -> int:
        return sum(len(job.asked) for job in self.jobs)


def plan(cases: Sequence[Case], files: Sequence[ImageFile], rows_per_part: int) -> list[Part]:
    """Whole images, in the order of ``cases``, to parts of at least ``rows_per_part`` boxes (the last may have fewer).

    Args:
        cases: the boxes to explain, those of an image together.
        files: the images; those of images that are not among them are left out.
        rows_per_part: about how many explanations a killed run loses at most.
    """
    by_id = {file.image_id: file for file in files}
    parts: list[Part] = []
    jobs: list[Job] = []
    row = 0
    for image_id, group in groupby(cases, key=lambda case: case.image_id):
        if image_id not in by_id:
            continue
        asked = []
        for case in group:
            asked.append(Asked(row, case))
            row += 1
        jobs.append(Job(by_id[image_id], tuple(asked)))
        if sum(len(job.asked) for job in jobs) >= rows_per_part:
            parts.append(Part(len(parts), tuple(jobs)))
            jobs = []
    return [*parts, Part(len(parts), tuple(jobs))] if jobs else parts
