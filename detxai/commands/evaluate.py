"""``detxai evaluate``: which method to believe, on a detector and images of the user's own."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from detxai.adapters.detector import Detector
from detxai.commands.model_options import add_model_options, requested_detector
from detxai.commands.options import (
    FAILED,
    a_path,
    add_output_options,
    fraction,
    no_repeats,
    setting,
    shows_progress,
    whole,
)
from detxai.engine.masking.canvas import FILLINGS
from detxai.evaluate import Evaluation, coco_photos, evaluate, make_measures, scene_photos
from detxai.evaluate.contestants import BASELINES, PEERS
from detxai.evaluate.measuring import COSTLY
from detxai.evaluate.photos.photo import Photo
from detxai.evaluate.photos.scene_photos import kinds_of
from detxai.evaluate.results.table import rank_table
from detxai.evaluate.results.time_left import TimeLeft, in_words
from detxai.methods import METHODS
from detxai.metrics import MEASURES
from detxai.metrics.inputs.case import REFERENCES, Measure
from detxai.metrics.inputs.scores import SCORE_FUNCTIONS
from detxai.metrics.insertion_deletion import UNITS
from detxai.runs.files import WriteError
from detxai.runs.tables import import_pyarrow
from detxai.settings import LARGEST_SEED


def add_evaluate(commands: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        "evaluate", help="rank methods on the same detections: a table, results.parquet and index.html; resumable"
    )
    add_model_options(command)
    command.add_argument(
        "--methods", required=True, type=_names, metavar="A,B",
        help=f"{', '.join([*METHODS, *PEERS, *BASELINES])}; all: every method, box_centre and random; "
        "other=METHOD lets one compete again, with other settings",
    )  # fmt: skip
    command.add_argument("--out", required=True, type=a_path, metavar="DIR")
    _add_images(command)
    _add_measures(command)
    add_output_options(command)
    command.set_defaults(run=_evaluate)
    return command


def _add_images(command: argparse.ArgumentParser) -> None:
    command.add_argument("--images", type=a_path, metavar="DIR", help="what the annotations' file names start from")
    command.add_argument("--annotations", type=a_path, metavar="FILE", help="a COCO annotation file")
    command.add_argument(
        "--scenes", nargs="?", const=(), type=_names, metavar="KIND,...",
        help="instead of images: scenes whose evidence is known, of these kinds or of all",
    )  # fmt: skip
    command.add_argument("--n-scenes", type=whole(1), default=10, metavar="N", help="of each kind; default: 10")
    command.add_argument("--max-images", type=whole(1), metavar="N", help="a seeded sample; default: all")
    command.add_argument("--max-detections", type=whole(1), metavar="N", help="a seeded sample over all images")
    command.add_argument("--score-threshold", type=fraction, default=0.25, metavar="S", help="default: 0.25")
    command.add_argument("--unmatched", action="store_true", help="also detections of no annotated object")
    command.add_argument(
        "--seed", type=whole(0, LARGEST_SEED), default=0, help="of the samples and the bootstrap; default: 0"
    )


def _add_measures(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--measures", type=_names, metavar="A,B",
        help=f"of {', '.join(MEASURES)}; default: all but the costly ones, {', '.join(COSTLY)}",
    )  # fmt: skip
    command.add_argument("--steps", type=whole(1), help="of the curves; default: the measure's own")
    command.add_argument(
        "--fill", type=_fills, metavar="A,B",
        help=f"what hidden pixels show, of {', '.join(FILLINGS)}; several name the quantities of "
        "insertion_deletion, and other measures take the first; default: the measure's own",
    )  # fmt: skip
    command.add_argument("--unit", choices=UNITS, help="what insertion and deletion rank; default: pixel")
    command.add_argument("--score", choices=SCORE_FUNCTIONS, help="what is left of a detection; default: class_score")
    command.add_argument(
        "--reference", choices=REFERENCES, help="the box that maps are measured against; default: detection"
    )
    command.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="OWNER.NAME=VALUE", dest="settings",
        help="a setting of a method or measure, such as d_rise.n_masks=200; as often as needed",
    )  # fmt: skip


def _evaluate(given: argparse.Namespace) -> int:
    import_pyarrow()
    _check_images(given)
    settings = _by_owner(given.settings)
    measures = make_measures(
        given.measures,
        {name: settings.pop(name) for name in list(settings) if name in MEASURES},
        steps=given.steps,
        fill=given.fill,
        unit=given.unit,
        score=given.score,
        reference=given.reference,
    )
    detector = requested_detector(given)
    photos, source = _photos(given, detector)
    try:
        found = _found(given, detector, photos, source, settings, measures)
    except WriteError as error:
        if given.debug or not (given.out / "request.json").is_file():
            raise
        print(f"detxai: error: {error}; the same command goes on from here", file=sys.stderr)
        return FAILED
    _report(found, as_json=given.json)
    return FAILED if found.failures else 0


def _found(
    given: argparse.Namespace,
    detector: Detector,
    photos: Sequence[Photo],
    source: dict[str, Any],
    settings: dict[str, dict[str, Any]],
    measures: Sequence[Measure],
) -> Evaluation:
    return evaluate(
        detector,
        photos,
        given.methods,
        given.out,
        settings=settings,
        measures=measures,
        max_images=given.max_images,
        max_detections=given.max_detections,
        score_threshold=given.score_threshold,
        unmatched=given.unmatched,
        seed=given.seed,
        source=source,
        progress=shows_progress(given),
        on_estimate=_print_estimate,
    )


def _print_estimate(left: TimeLeft) -> None:
    print(
        f"about {in_words(left.seconds)} to go: {left.n_maps} maps ({left.n_detections} detections, "
        f"{left.n_methods} methods), at {left.seconds / left.n_maps:.2g} s each on the first image; "
        "fewer with --max-detections, and cheaper with other --measures, --steps or --fill; what is finished is kept",
        file=sys.stderr,
    )


def _report(found: Evaluation, *, as_json: bool) -> None:
    if as_json:
        failures = [dict(failure) for failure in found.failures]
        print(json.dumps({"out": str(found.out), **found.summary.as_json(), "failures": failures}, indent=2))
        return
    if found.failures:
        unread = sum(failure["method"] is None for failure in found.failures)
        print(f"{len(found.failures)} failures: {found.out / 'failures.json'}; {unread} images are in no figure\n")
    print(rank_table(found.summary))
    print(f"\nopen {found.out / 'index.html'}")


def _check_images(given: argparse.Namespace) -> None:
    if given.scenes is not None and (given.images is not None or given.annotations is not None):
        raise ValueError("--scenes takes the place of --images and --annotations, got both")
    if given.scenes is None and (given.images is None or given.annotations is None):
        raise ValueError("give --images and --annotations, or --scenes")


def _photos(given: argparse.Namespace, detector: Detector) -> tuple[list[Photo], dict[str, Any]]:
    """The images, and where they come from, for the record."""
    if given.scenes is not None:
        kinds = kinds_of(given.scenes)
        return scene_photos(detector.class_names, kinds, given.n_scenes), {"scenes": kinds, "n": given.n_scenes}
    photos = coco_photos(given.images, given.annotations, detector.class_names)
    digest = hashlib.sha256(given.annotations.read_bytes()).hexdigest()
    return photos, {"images": given.images.name, "annotations": given.annotations.name, "sha256": digest}


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between, got {text!r}")
    return names


def _fills(text: str) -> str | list[str]:
    """One fill, or several of them."""
    fills = _names(text)
    unknown = [fill for fill in fills if fill not in FILLINGS]
    if unknown or len(set(fills)) < len(fills):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(FILLINGS)}, each once, got {text!r}")
    return fills[0] if len(fills) == 1 else fills


def _setting(text: str) -> tuple[str, tuple[str, Any]]:
    """``OWNER.NAME=VALUE``: a setting of a method or measure."""
    owner, dot, _ = text.partition("=")[0].rpartition(".")
    if not dot or not owner:
        raise argparse.ArgumentTypeError(f"expected METHOD.NAME=VALUE or MEASURE.NAME=VALUE, got {text!r}")
    return owner, setting(text[len(owner) + 1 :])


def _by_owner(settings: Sequence[tuple[str, tuple[str, Any]]]) -> dict[str, dict[str, Any]]:
    owners = dict.fromkeys(owner for owner, _ in settings)
    return {name: no_repeats([entry for owner, entry in settings if owner == name]) for name in owners}
