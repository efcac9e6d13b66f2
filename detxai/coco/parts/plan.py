"""The work of a run, cut into parts in the same way however many processes do it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from detxai.data.error_kinds import LabelledBox
from detxai.data.image_files import ImageFile


@dataclass(frozen=True)
class BoxQuery:
    """A box to explain.

    Attributes:
        row: its place in the whole dataset, from 0.
        box: what is known of it.
    """

    row: int
    box: LabelledBox


@dataclass(frozen=True)
class Job:
    """One image and the boxes in it to explain."""

    file: ImageFile
    queries: tuple[BoxQuery, ...]


@dataclass(frozen=True)
class Part:
    """The jobs whose explanations go into one file."""

    number: int
    jobs: tuple[Job, ...]

    @property
    def n_boxes(self) -> int:
        return sum(len(job.queries) for job in self.jobs)


def plan(boxes: Sequence[LabelledBox], files: Sequence[ImageFile], rows_per_part: int) -> list[Part]:
    """Whole images, in the order of ``boxes``, to parts of at least ``rows_per_part`` boxes (the last may have fewer).

    Args:
        boxes: to explain, those of an image together.
        files: the images; boxes of images that are not among them are left out.
        rows_per_part: about how many explanations a killed run loses at most.
    """
    by_id = {file.image_id: file for file in files}
    parts: list[Part] = []
    jobs: list[Job] = []
    row = 0
    for image_id, group in groupby(boxes, key=lambda box: box.image_id):
        if image_id not in by_id:
            continue
        queries = [BoxQuery(row + place, box) for place, box in enumerate(group)]
        row += len(queries)
        jobs.append(Job(by_id[image_id], tuple(queries)))
        if sum(len(job.queries) for job in jobs) >= rows_per_part:
            parts.append(Part(len(parts), tuple(jobs)))
            jobs = []
    return [*parts, Part(len(parts), tuple(jobs))] if jobs else parts


def digest(parts: Sequence[Part]) -> str:
    """SHA-256 of a plan: which boxes are in which part."""
    whole = hashlib.sha256()
    for part in parts:
        for job in part.jobs:
            rows = [sorted(query.box.as_row().items()) for query in job.queries]
            whole.update(repr((part.number, job.file.file_name, rows)).encode())
    return whole.hexdigest()
