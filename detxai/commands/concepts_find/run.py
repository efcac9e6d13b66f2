"""``detxai concepts find``: what a detector looks at."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detxai.adapters.detector import Detector
from detxai.commands.config import write_config
from detxai.commands.options import FAILED, shows_progress
from detxai.commands.requested_annotations import expect_images_or_scenes, requested_images
from detxai.commands.requested_detector import requested_detector
from detxai.concepts.clusters.mixture_fit import Fitting, import_mixture
from detxai.concepts.clusters.run import FoundConcepts, Search, find_concepts
from detxai.evaluate import annotated_photos, scene_photos
from detxai.evaluate.photos.photo import Photo
from detxai.evaluate.photos.scene_photos import kinds_of
from detxai.evaluate.photos.selection import draw_photos


def run(given: argparse.Namespace) -> int:
    """Find the concepts; the exit code."""
    import_mixture()
    expect_images_or_scenes(given)
    detector = requested_detector(given)
    photos, source = _photos(given, detector)
    found = find_concepts(
        detector, draw_photos(photos, given.max_images, given.seed), given.out, _search(given), source=source,
        progress=shows_progress(given),
    )  # fmt: skip
    write_config(given, given.out / "run.yaml")
    _report(found, as_json=given.json)
    return FAILED if found.failures else 0


def _search(given: argparse.Namespace) -> Search:
    fitting = Fitting(
        n_concepts=given.max_concepts,
        n_dimensions=given.dimensions,
        class_weight=given.class_weight,
        n_seeds=given.fits,
    )
    return Search(
        layers=None if given.layers is None else tuple(given.layers),
        score_threshold=given.score_threshold,
        removal=given.removal,
        max_cells=given.max_cells,
        seed=given.seed,
        fitting=fitting,
    )


def _photos(given: argparse.Namespace, detector: Detector) -> tuple[Sequence[Photo], dict[str, Any]]:
    if given.scenes is not None:
        kinds = kinds_of(given.scenes)
        return scene_photos(detector.class_names, kinds, given.n_scenes), {"scenes": kinds, "n": given.n_scenes}
    images = requested_images(given)
    where = given.annotations or given.images
    photos = annotated_photos(images, detector.class_names, where)
    return photos, {"images": Path(str(images.images)).name, "annotations": Path(str(where)).name}


def _report(found: FoundConcepts, *, as_json: bool) -> None:
    failures = [dict(failure) for failure in found.failures]
    if as_json:
        print(json.dumps({"out": str(found.out), **found.summary, "failures": failures}, indent=2))
        return
    if failures:
        print(f"{len(failures)} images failed: {found.out / 'failures.json'}\n")
    print(f"{'class':24} {'boxes':>5}  concepts by the share of the score lost without them (number: share)")
    for of_class in found.summary["classes"]:
        top = "  ".join(f"{entry['number']}: {entry['effect']['mean']:.2f}" for entry in of_class["concepts"][:4])
        print(f"{of_class['name'][:24]:24} {of_class['n_boxes']:>5}  {top}")
    print(f"\nopen {found.out / 'index.html'}")
