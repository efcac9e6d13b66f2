"""Third stage: the chosen boxes explained, part by part. The only stage whose work several processes share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detxai.coco.detect import prediction_chunks
from detxai.coco.manifest import mark_refused, question_of, set_question
from detxai.coco.parts.archive import ArchivedRows, archive_parts, delete_archive, lost_by
from detxai.coco.parts.engines import Engine
from detxai.coco.parts.image_explainer import ImageExplainer
from detxai.coco.parts.maker import PartMaker
from detxai.coco.parts.misses import Miss
from detxai.coco.parts.plan import Part, digest, plan
from detxai.coco.request import CocoRequest
from detxai.coco.schema import FAILURE_COLUMNS, arrow_schema
from detxai.coco.selection import select
from detxai.data.error_kinds import LabelledBox
from detxai.runs.failures import AllFailedError
from detxai.runs.files import WriteError


def chosen_boxes(request: CocoRequest) -> list[LabelledBox]:
    """The boxes of ``boxes.parquet`` that are to be explained."""
    known = set(request.label_to_category.values())
    return [box for box in select(request.folder.read_boxes(), request.selection) if box.category_id in known]


def planned_parts(request: CocoRequest, boxes: Sequence[LabelledBox]) -> list[Part]:
    """The parts of the dataset, without the images that failed while predictions were made: they would fail again."""
    failed = request.failed_images()
    files = [file for file in request.files if file.image_id not in failed]
    return plan(boxes, files, request.options.rows_per_part)


def explain(request: CocoRequest, parts: Sequence[Part], engine: Engine) -> list[dict[str, Any]]:
    """Make every part of this shard that is not there yet; on request also those in which something failed.

    Args:
        request: of the run.
        parts: from ``planned_parts``.
        engine: runs the detector.

    Returns:
        All failures of all shards so far: the content of ``failures.parquet``.

    Raises:
        ValueError: the folder holds explanations of other boxes.
        AllFailedError: the first images all failed.
        WriteError: a part cannot be written.
    """
    folder = request.folder
    _expect_same_plan(request, parts)
    try:
        _make_missing_parts(request, parts, engine)
    except WriteError:  # nor could the failures be
        raise
    except AllFailedError:
        mark_refused(folder)
        raise
    except BaseException:
        _write_failures(request)
        raise
    failures = _write_failures(request)
    if is_complete(request, parts):
        delete_archive(folder)
    return failures


def is_complete(request: CocoRequest, parts: Sequence[Part]) -> bool:
    """Whether every part is there, of every shard."""
    return all(request.folder.has_part(part.number) for part in parts)


def _make_missing_parts(request: CocoRequest, parts: Sequence[Part], engine: Engine) -> None:
    options, folder = request.options, request.folder
    mine = options.shard.mine(parts)
    again = [part for part in mine if options.retry_failed and folder.has_failures(part.number)]
    missing = [part for part in mine if part in again or not folder.has_part(part.number)]
    total, left = sum(part.n_boxes for part in mine), sum(part.n_boxes for part in missing)
    maker = PartMaker(
        image_explainer(request, _known_misses(request)),
        folder,
        1 if options.map_stride == "layer" else options.map_stride,
        request.workers,
        ArchivedRows(folder, [folder.part(part.number) for part in again]),
    )
    with options.bar(total, total - left, "box", "explaining") as bar:
        engine.make_parts(maker, missing, bar.update)


def image_explainer(request: CocoRequest, misses: Mapping[int, Miss] | None) -> ImageExplainer:
    """What explains the boxes of each image; ``misses`` is where annotations are lost, as far as that is known."""
    options = request.options
    return ImageExplainer(
        request.detector,
        request.method,
        request.category_to_label,
        options.iou,
        request.score_threshold,
        from_file=request.from_file,
        misses=misses,
        layer_maps=options.map_stride == "layer",
        fail_fast=options.fail_fast,
        operating_point=request.operating_point,
    )


def _known_misses(request: CocoRequest) -> Mapping[int, Miss] | None:
    """Where annotations are lost, as the run saw when it made the predictions; None where it did not look."""
    saw_misses = request.wants_misses and not request.from_file
    return prediction_chunks(request).misses(len(request.files)) if saw_misses else None


def _expect_same_plan(request: CocoRequest, parts: Sequence[Part]) -> None:
    """The parts that are there must be of this plan: predictions made on another machine may differ a little.

    Where failed images are tried again, those that no longer fail make another plan of it; so does a wider selection,
    and a folder that an earlier version wrote: then rows that are explained are taken over.
    """
    folder, now, widen = request.folder, digest(parts), request.options.widen
    before = _saved_plan(request)
    if before is not None and before != now:
        n_lost = lost_by(folder, parts) if widen else 0
        if n_lost:
            raise ValueError(
                f"out: widen needs a selection that holds all boxes explained so far; {n_lost} of those in "
                f"{folder.root} are not in this one; give a new folder"
            )
        if not (widen or request.options.retry_failed or folder.plan_of_format_3.is_file()):
            raise ValueError(
                f"out: {folder.root} was begun with other boxes: the predictions or images are no longer what "
                "they were; give a new folder, or retry_failed to keep what is explained of the same boxes"
            )
        archive_parts(folder, before)
    if before != now:
        folder.write_text(folder.plan, now)
    if folder.plan_of_format_3.is_file():
        folder.plan_of_format_3.unlink(missing_ok=True)
    if widen:
        set_question(folder, question_of(request))


def _saved_plan(request: CocoRequest) -> str | None:
    """The digest of the plan that the folder's parts are of; None where there are none."""
    folder = request.folder
    path = folder.plan_of_format_3 if folder.plan_of_format_3.is_file() else folder.plan
    saved = _read(path)
    if saved is None or len(saved) == len(hashlib.sha256().hexdigest()):
        return saved
    if folder.has_rows():
        raise ValueError(f"out: {path} is damaged; give a new folder")
    return None


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _write_failures(request: CocoRequest) -> list[dict[str, Any]]:
    """All failures of all shards, written to ``failures.parquet``."""
    folder, failures = request.folder, None
    while failures != (now := folder.failures()):  # a shard that ends at the same instant may have added some
        failures = now
        folder.write_table(folder.root / "failures.parquet", failures, arrow_schema(FAILURE_COLUMNS))
    return failures
