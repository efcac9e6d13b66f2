"""``detxai coco``: why the false positives of a COCO evaluation happened, and the misses did."""

from __future__ import annotations

import argparse
import json
import logging
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from detxai.coco.api import quiet_method
from detxai.coco.folder import CocoFolder
from detxai.coco.options import Finished, Options
from detxai.coco.request import CocoRequest
from detxai.coco.run import run
from detxai.coco.selection import Selection
from detxai.commands.model_options import add_model_options, requested_detector
from detxai.commands.options import (
    FAILED,
    LARGEST_SIDE,
    a_path,
    add_method_settings,
    add_output_options,
    amount,
    fraction,
    no_repeats,
    shows_progress,
    whole,
)
from detxai.data.categories import label_to_category
from detxai.data.coco_files import read_annotations, read_predictions
from detxai.data.error_kinds import ERRORS, FALSE_POSITIVES, KINDS
from detxai.runs.files import WriteError
from detxai.runs.shards import Shard
from detxai.runs.tables import import_pyarrow

KIND_GROUPS = {
    "all": tuple(kind for kind in KINDS if kind != "ignored"),
    "errors": ERRORS,
    "false_positives": FALSE_POSITIVES,
}
SHOWN_FAILURES = 10


def add_coco(commands: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        "coco",
        help="explain COCO predictions: a Parquet dataset of explanations, resumable, and a report",
        description="Label every prediction as COCOeval does, say what kind of mistake it is, and explain the chosen "
        "boxes. The same command again goes on where it stopped.",
    )
    _add_inputs(command)
    _add_selection(command)
    _add_run_options(command)
    add_output_options(command)
    command.set_defaults(run=_coco)
    return command


def _add_inputs(command: argparse.ArgumentParser) -> None:
    add_model_options(command)
    command.add_argument("--images", required=True, type=a_path, metavar="DIR", help="folder of the images")
    command.add_argument("--annotations", required=True, type=a_path, metavar="FILE", help="COCO annotations")
    command.add_argument(
        "--predictions", type=a_path, metavar="FILE", help="COCO results of any run; default: the model makes them"
    )
    command.add_argument("--method", required=True, help="ablation_cam, eigen_cam, ...")
    command.add_argument("--out", required=True, type=a_path, metavar="DIR", help="a new folder, or one to go on with")
    add_method_settings(command)
    command.add_argument(
        "--labels", metavar="HOW", help="which label is which category: by-name, by-id, or a JSON file of pairs"
    )


def _add_selection(command: argparse.ArgumentParser) -> None:
    chosen = command.add_argument_group("which boxes are explained")
    chosen.add_argument(
        "--kinds", type=_comma_separated, default=KIND_GROUPS["all"], metavar="K,...",
        help=f"of {', '.join(KINDS)}; or {', '.join(KIND_GROUPS)}; default: all",
    )  # fmt: skip
    chosen.add_argument("--classes", type=_comma_separated, metavar="NAME,...", help="categories by name")
    chosen.add_argument("--image-ids", type=_numbers, metavar="ID,...", help="images by id")
    chosen.add_argument("--min-area", type=amount, default=0.0, metavar="A", help="square pixels; small ends at 1024")
    chosen.add_argument("--max-area", type=amount, default=float("inf"), metavar="A", help="medium ends at 9216")
    chosen.add_argument(
        "--min-score", type=amount, default=0.0, metavar="S", help="of predictions; default: all that count"
    )
    chosen.add_argument("--max-score", type=amount, default=float("inf"), metavar="S", help="of predictions")
    chosen.add_argument("--worst", type=whole(1), metavar="N", help="only the N that cost most AP")
    chosen.add_argument(
        "--max-images", type=whole(1), metavar="N", help="only boxes of the first N images that have any"
    )


def _add_run_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("how")
    group.add_argument("--iou", type=fraction, default=0.5, help="from which a box is found; default: 0.5")
    group.add_argument(
        "--operating-point", type=amount, default=0.25, metavar="S",
        help="score from which a prediction counts: decides what is found, missed and explained; AP is of all "
        "predictions; default: 0.25",
    )  # fmt: skip
    group.add_argument(
        "--score-threshold", type=fraction, metavar="S",
        help="down to which predictions are made; default: 0.001, or the lowest score of the predictions file",
    )  # fmt: skip
    group.add_argument(
        "--map-stride", type=_stride, default=1, metavar="N",
        help="image pixels to a stored one, or 'layer': the cells of the finest layer explained; default: 1",
    )  # fmt: skip
    group.add_argument(
        "--rows-per-part", type=whole(1), default=32, metavar="N", help="explanations to a file; default: 32"
    )
    group.add_argument("--shard", default="1/1", metavar="i/n", help="do the i-th of n shares of the work")
    group.add_argument(
        "--workers", type=whole(0, 256), metavar="N", help="threads that decode ahead; default: 2 with a GPU, else 0"
    )
    group.add_argument(
        "--overlays", action="store_true", help="a picture of each explanation too, also of a finished run"
    )
    group.add_argument("--no-report", action="store_true", help="no report.html")
    group.add_argument(
        "--widen", action="store_true", help="DIR may hold a narrower selection: explain only what is new"
    )
    group.add_argument("--fail-fast", action="store_true", help="stop at the first failure")
    group.add_argument("--retry-failed", action="store_true", help="try again what failed; what is explained stays")


def _coco(given: argparse.Namespace) -> int:
    import_pyarrow()
    logging.getLogger("detxai.coco").setLevel(logging.INFO if not given.json else logging.WARNING)
    options = _options(given)
    selection = _selection(given)
    method = quiet_method(given.method, no_repeats(given.settings))
    if not given.images.is_dir():
        raise FileNotFoundError(f"--images: no such folder: {given.images}")
    if given.out.exists() and not given.out.is_dir():
        raise ValueError(f"--out must be a folder, got the file {given.out}")
    annotations = read_annotations(given.annotations)
    predictions = None if given.predictions is None else read_predictions(given.predictions, annotations)
    detector = requested_detector(given)
    pairs = label_to_category(detector, annotations, given.labels)
    about = {"command": shlex.join(["detxai", *sys.argv[1:]]), "annotations": str(given.annotations)}
    about |= {} if given.predictions is None else {"predictions": str(given.predictions)}
    about |= {"weights": given.model if given.weights is None else str(given.weights)}
    request = CocoRequest(
        detector, method, given.images, annotations, predictions, pairs, CocoFolder(given.out), selection, options,
        about=about,
    )  # fmt: skip
    try:
        finished = run(request)
    except WriteError as error:
        if given.debug or not (given.out / "manifest.json").is_file():
            raise
        print(f"detxai: error: {error}; the same command goes on from here", file=sys.stderr)
        return FAILED
    _print_summary(finished, as_json=given.json)
    return FAILED if finished.failures else 0


def _options(given: argparse.Namespace) -> Options:
    return Options(
        iou=given.iou,
        operating_point=given.operating_point,
        score_threshold=given.score_threshold,
        map_stride=given.map_stride,
        rows_per_part=given.rows_per_part,
        shard=Shard.read(given.shard),
        workers=given.workers,
        overlays=given.overlays,
        report=not given.no_report,
        widen=given.widen,
        fail_fast=given.fail_fast,
        retry_failed=given.retry_failed,
        progress=shows_progress(given),
    )


def _selection(given: argparse.Namespace) -> Selection:
    kinds = [one for kind in given.kinds for one in KIND_GROUPS.get(kind, (kind,))]
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


def _print_summary(finished: Finished, *, as_json: bool) -> None:
    record = finished.evaluation
    counts = {"selected": finished.n_selected, "explained": finished.n_explained, "failures": len(finished.failures)}
    for failure in finished.failures[:SHOWN_FAILURES]:
        print(f"detxai: error: {failure['file_name']}: {failure['step']}: {failure['reason']}", file=sys.stderr)
    if len(finished.failures) > SHOWN_FAILURES:
        print(f"detxai: {len(finished.failures)} failures in all: failures.parquet", file=sys.stderr)
    if as_json:
        print(json.dumps({"out": str(finished.folder), "complete": finished.complete, **counts, **record}, indent=2))
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
    print(f"\n{finished.n_explained} of {finished.n_selected} chosen boxes explained in {finished.folder}")
    if not finished.complete:
        print("some parts of other shards are not done yet")


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_FAILURES]) + (", ..." if len(names) > SHOWN_FAILURES else "")


def _stride(text: str) -> Any:
    if text == "layer":
        return text
    try:
        return whole(1, LARGEST_SIDE)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(str(error).replace("expected ", "expected 'layer' or ", 1)) from None


def _comma_separated(text: str) -> Sequence[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> Sequence[int]:
    words = _comma_separated(text)
    if not words or not all(re.fullmatch(r"-?[0-9]{1,16}", word) for word in words):
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas, got {text[:80]!r}")
    return [int(word) for word in words]
