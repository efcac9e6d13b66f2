"""The four stages of ``detxai coco`` in their order: a run that can be killed at any time and goes on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from detxai.coco.detect import detect
from detxai.coco.explain import chosen_boxes, explain, is_complete, planned_parts
from detxai.coco.label import label
from detxai.coco.manifest import about, begin, question_of
from detxai.coco.options import Finished
from detxai.coco.parts.engines import Engine, LocalEngine
from detxai.coco.parts.plan import Part
from detxai.coco.report import write_report
from detxai.coco.request import CocoRequest
from detxai.coco.stored.compaction import compact
from detxai.coco.summaries.overlays import save_overlays
from detxai.runs.interrupting import stops_on_ctrl_c


def run(request: CocoRequest) -> Finished:
    """Do what is still to do: detect, label, explain, report.

    Each stage reads what the one before left in the folder, and can be called by itself.

    Raises:
        ValueError: the request cannot be answered (then nothing is written), the folder holds another run, or the
            first twenty images all failed.
        WriteError: the folder cannot be written to: what is finished is kept, and the same run goes on.
    """
    request.check()
    with stops_on_ctrl_c(), closing(engine_of(request)) as engine:
        begin(request.folder, question_of(request), about(request), widen=request.options.widen)
        if request.config is not None and (request.options.widen or not request.folder.config.is_file()):
            request.folder.write_text(request.folder.config, request.config)
        record = label(request, detect(request, engine))
        boxes = chosen_boxes(request)
        parts = planned_parts(request, boxes)
        failures = explain(request, parts, engine)
        _report(request, parts, record)
        if not failures and is_complete(request, parts):
            compact(request.folder, len(parts))
    n_missing = sum(row["n_boxes"] for row in failures)
    n_there = sum(part.n_boxes for part in parts if request.folder.has_part(part.number))
    complete = is_complete(request, parts)
    return Finished(request.folder.root, record, len(boxes), n_there - n_missing, failures, complete)


def engine_of(request: CocoRequest) -> Engine:
    """What runs the detector.

    Raises:
        ImportError: Ray is wanted and not installed.
        TypeError: Ray is wanted, and the detector cannot be sent to another process.
    """
    options = request.options
    if options.engine == "local":
        return LocalEngine()
    from detxai.coco.on_ray.cluster import expect_ray
    from detxai.coco.on_ray.detector_source import PickledDetector
    from detxai.coco.on_ray.engine import RayEngine

    expect_ray()
    source = request.detector_source or PickledDetector(request.detector)
    return RayEngine(options.ray, options.workers, source, request.detector.fingerprint(), request.device)


def _report(request: CocoRequest, parts: Sequence[Part], record: dict[str, Any]) -> None:
    """Overlays of this shard's rows, and the report once every shard is done, where they are wanted."""
    options, folder = request.options, request.folder
    mine = options.shard.mine(parts)
    if options.overlays and mine:
        with options.bar(sum(part.n_boxes for part in mine), 0, "box", "overlays") as bar:
            save_overlays(folder, request.images, mine, bar.update)
    if options.report and parts and is_complete(request, parts):
        with options.bar(sum(part.n_boxes for part in parts), 0, "box", "report") as bar:
            write_report(folder, record, request.images, bar.update)
