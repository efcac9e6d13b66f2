"""``detxai coco``: why the false positives of a COCO evaluation happened, and the misses did."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detxai.coco.api import quiet_method
from detxai.coco.folder import CocoFolder
from detxai.coco.on_ray.detector_source import DetectorFiles
from detxai.coco.options import Finished, Options, RayOptions, expect_whole
from detxai.coco.request import CocoRequest
from detxai.coco.run import run as run_coco
from detxai.coco.selection import Selection
from detxai.coco.upkeep.estimate import Estimate, estimate
from detxai.commands.choices import KIND_GROUPS
from detxai.commands.config import config_of
from detxai.commands.options import FAILED, shows_progress
from detxai.commands.requested_annotations import requested_images
from detxai.commands.requested_detector import detector_options, requested_detector
from detxai.commands.requested_method import requested_settings
from detxai.data.categories import label_to_category, names_of_labels
from detxai.data.coco_files import as_annotations, read_predictions
from detxai.data.error_kinds import UNANNOTATED
from detxai.evaluate.results.time_left import in_words
from detxai.runs.files import WriteError
from detxai.runs.remote.address import Address
from detxai.runs.remote.copied_folder import working_folder
from detxai.runs.shards import Shard
from detxai.runs.tables import import_pyarrow

SHOWN_FAILURES = 10


def run(given: argparse.Namespace) -> int:
    """Evaluate, label and explain; the exit code."""
    import_pyarrow()
    logging.getLogger("detxai.coco").setLevel(logging.INFO if not given.json else logging.WARNING)
    options = _options(given)
    method = quiet_method(given.method, requested_settings(given))
    if isinstance(given.out, Path) and given.out.exists() and not given.out.is_dir():
        raise ValueError(f"--out must be a folder, got the file {given.out}")
    expect_whole(given.out, options)
    source = requested_images(given)
    selection = _selection(given, annotated=source.annotated)
    where = given.annotations or given.images
    detector = None
    if not source.annotated:
        detector = requested_detector(given)
        source = source.with_categories(names_of_labels(detector))
    annotations = as_annotations(source.content, f"annotations: {where}")
    predictions = None if given.predictions is None else read_predictions(given.predictions, annotations)
    detector = detector or requested_detector(given)
    pairs = label_to_category(detector, annotations, given.labels)
    about = {"command": shlex.join(["detxai", *sys.argv[1:]]), "annotations": str(where)}
    about |= {} if given.predictions is None else {"predictions": str(given.predictions)}
    about |= {"weights": given.model if given.weights is None else str(given.weights)}
    request = CocoRequest(
        detector, method, source.images, annotations, predictions, pairs, CocoFolder(Path(str(given.out))), selection,
        options, about=about, device=given.device, config=config_of(given, given.parser),
        detector_source=source_of_detector(given) if options.engine == "ray" else None,
    )  # fmt: skip
    if given.dry_run:
        _print_estimate(estimate(request, _n_processes(given)), as_json=given.json)
        return 0
    try:
        with working_folder(given.out) as folder:
            finished = run_coco(replace(request, folder=CocoFolder(folder)))
    except WriteError as error:
        begun = not isinstance(given.out, Path) or (given.out / "manifest.json").is_file()
        if given.debug or not begun:
            raise
        print(f"detxai: error: {error}; the same command goes on from here", file=sys.stderr)
        return FAILED
    _print_summary(finished, given.out, as_json=given.json)
    return FAILED if finished.failures else 0


def _n_processes(given: argparse.Namespace) -> int:
    """That hold the detector: on a cluster only ``--workers`` says how many."""
    return (given.workers or os.cpu_count() or 1) if given.engine == "ray" else 1


def _print_estimate(found: Estimate, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
        return
    about = "" if found.exact else "about "
    print(f"images  {found.n_images}")
    print(f"boxes   {about}{found.n_boxes}, in {about}{found.n_images_with_boxes} images")
    if found.pieces is None:
        print(f"none of {found.n_sampled} sampled images has a box to explain: nothing more can be said")
        return
    one = found.pieces
    of = "1 process" if found.workers == 1 else f"{found.workers} processes"
    print(f"passes  about {found.passes}: {one.passes:.3g} for each box")
    print(f"time    about {in_words(found.seconds)} with {of}")
    print(f"disk    about {found.bytes / 1e6:.1f} MB: {one.bytes / 1e3:.0f} kB for each box")
    print(f"measured on {found.n_sampled} images and {found.n_explained} boxes; milliseconds:")
    print(f"  an image: reading {one.read * 1e3:.1f}, detecting {one.detect * 1e3:.1f}")
    print(
        f"  a box: the method {one.method * 1e3:.1f}, around it {one.around * 1e3:.1f}, packing its map "
        f"{one.pack * 1e3:.1f}, writing it {one.write * 1e3:.1f}"
    )
    print("nothing was written; the same command without --dry-run starts the run")


def source_of_detector(given: argparse.Namespace) -> DetectorFiles:
    """What a worker on another machine builds the detector from."""
    weights = None if given.weights is None else str(given.weights)
    return DetectorFiles.read(given.model, weights, detector_options(given))


def _options(given: argparse.Namespace) -> Options:
    return Options(
        iou=given.iou,
        operating_point=given.operating_point,
        score_threshold=given.score_threshold,
        map_stride=given.map_stride,
        rows_per_part=given.rows_per_part,
        shard=Shard.read(given.shard),
        engine=given.engine,
        ray=RayOptions(given.address, given.gpus_per_worker),
        workers=given.workers,
        overlays=given.overlays,
        report=not given.no_report,
        widen=given.widen,
        fail_fast=given.fail_fast,
        retry_failed=given.retry_failed,
        progress=shows_progress(given),
    )


def _selection(given: argparse.Namespace, *, annotated: bool) -> Selection:
    default = KIND_GROUPS["all"] if annotated else (UNANNOTATED,)
    wanted = default if given.kinds is None else given.kinds
    kinds = [one for kind in wanted for one in KIND_GROUPS.get(kind, (kind,))]
    return Selection(
        kinds,
        given.classes,
        given.image_ids,
        given.min_area,
        given.max_area,
        given.min_score,
        given.max_score,
        given.worst,
        given.max_images,
    )


def _print_summary(finished: Finished, out: Path | Address, *, as_json: bool) -> None:
    record = finished.evaluation
    counts = {"selected": finished.n_selected, "explained": finished.n_explained, "failures": len(finished.failures)}
    for failure in finished.failures[:SHOWN_FAILURES]:
        print(f"detxai: error: {failure['file_name']}: {failure['step']}: {failure['reason']}", file=sys.stderr)
    if len(finished.failures) > SHOWN_FAILURES:
        print(f"detxai: {len(finished.failures)} failures in all: failures.parquet", file=sys.stderr)
    if as_json:
        print(json.dumps({"out": str(out), "complete": finished.complete, **counts, **record}, indent=2))
        return
    left_out = record["images"]["left_out"]
    if left_out:
        print(
            f"{len(left_out)} images could not be read or detected in, and are in no figure: {_first_names(left_out)}\n"
        )
    for name, value in record["summary"].items():
        print(f"{name:<10} {'-' if value is None else f'{value:.6f}'}")
    point = record["operating_point"]
    print(f"\nof predictions that score {point:g} or more, and all annotations, at IoU {record['iou']:g}:")
    for kind, count in record["kinds"].items():
        print(f"{kind.replace('_', ' '):<15} {count:7d}")
    print(f"  of the missed, {record['missed_alone']} that no misplaced or misclassified box lies on (TIDE's misses)")
    print(f"\n{finished.n_explained} of {finished.n_selected} chosen boxes explained in {out}")
    if not finished.complete:
        print("some parts of other shards are not done yet")


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_FAILURES]) + (", ..." if len(names) > SHOWN_FAILURES else "")
