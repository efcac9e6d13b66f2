"""``detxai evaluate``: which method to believe, on a detector and images of the user's own."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detxai.adapters.detector import Detector
from detxai.commands.config import write_config
from detxai.commands.options import FAILED, no_repeats, shows_progress
from detxai.commands.requested_annotations import expect_images_or_scenes, requested_images
from detxai.commands.requested_detector import requested_detector
from detxai.evaluate import Evaluation, annotated_photos, evaluate, make_measures, scene_photos
from detxai.evaluate.photos.photo import Photo
from detxai.evaluate.photos.scene_photos import kinds_of
from detxai.evaluate.results.table import rank_table
from detxai.evaluate.results.time_left import TimeLeft, in_words
from detxai.explain import setting_names
from detxai.metrics import MEASURES
from detxai.metrics.inputs.case import Measure
from detxai.runs.files import WriteError
from detxai.runs.tables import import_pyarrow


def run(given: argparse.Namespace) -> int:
    """Measure the methods; the exit code."""
    import_pyarrow()
    expect_images_or_scenes(given)
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
    if given.batch_size is not None:
        _set_batch_size(settings, given.methods, given.batch_size)
    detector = requested_detector(given)
    photos, source = _photos(given, detector)
    try:
        found = _found(given, detector, photos, source, settings, measures)
    except WriteError as error:
        if given.debug or not (given.out / "request.json").is_file():
            raise
        print(f"detxai: error: {error}; the same command goes on from here", file=sys.stderr)
        return FAILED
    write_config(given, given.out / "run.yaml")
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


def _photos(given: argparse.Namespace, detector: Detector) -> tuple[list[Photo], dict[str, Any]]:
    """The images, and where they come from, for the record."""
    if given.scenes is not None:
        kinds = kinds_of(given.scenes)
        return scene_photos(detector.class_names, kinds, given.n_scenes), {"scenes": kinds, "n": given.n_scenes}
    source = requested_images(given)
    if not source.annotated:
        given.unmatched = True  # no object is annotated that a detection could match
    where = given.annotations or given.images
    photos = annotated_photos(source, detector.class_names, where)
    content = json.dumps(source.content, sort_keys=True).encode() if where.is_dir() else where.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return photos, {"images": Path(str(source.images)).name, "annotations": where.name, "sha256": digest}


def _set_batch_size(settings: dict[str, dict[str, Any]], methods: Sequence[str], batch_size: int) -> None:
    """The batch size of every method that has one, where no ``--set`` says another."""
    for entry in methods:
        name, _, method = entry.partition("=")
        if "batch_size" in setting_names(method or name):
            settings.setdefault(name, {}).setdefault("batch_size", batch_size)


def _by_owner(settings: Sequence[tuple[str, tuple[str, Any]]]) -> dict[str, dict[str, Any]]:
    owners = dict.fromkeys(owner for owner, _ in settings)
    return {name: no_repeats([entry for owner, entry in settings if owner == name]) for name in owners}
