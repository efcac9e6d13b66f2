"""``detxai bench``: what a method costs, beside its peers, in one process."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

import torch

from detxai.adapters.detector import Detector
from detxai.adapters.loading import BUNDLED
from detxai.adapters.network import module_of
from detxai.adapters.torchvision.spread import spread_like_trained
from detxai.bench.ablation import bench_ablation
from detxai.bench.d_rise import as_rate_records, as_rate_table, bench_d_rise
from detxai.bench.eigen_cam import as_projection_table, bench_eigen_cam
from detxai.bench.rows import as_records, as_table
from detxai.commands.requested_detector import requested_detector
from detxai.detections import Detections
from detxai.images import Array, load_image, to_tensor


def run(given: argparse.Namespace) -> int:
    """Time it and print the table; the exit code."""
    if given.n_masks is not None and given.what != "d_rise":
        raise ValueError("--n-masks is for d_rise only")
    array = load_image(given.image)
    detector = requested_detector(given)
    random = detector.family == "faster_rcnn" and given.weights is None and ":" not in given.model
    if random and given.model not in BUNDLED:
        spread_like_trained(module_of(detector), to_tensor(array).to(detector.device, detector.dtype))
    detections = detector.detect(array, given.score_threshold)[: given.max_boxes]
    records, table = _measured(given, detector, array, detections)
    threads = torch.get_num_threads()
    if given.json:
        about = {"model": given.model, "n_boxes": len(detections), "threads": threads, "torch": torch.__version__}
        print(json.dumps({**about, "rows": records}, indent=2))
    else:
        print(
            f"{given.model}, {given.image.name}, {len(detections)} boxes, {threads} threads, torch {torch.__version__}"
        )
        print(table)
    return 0


def _measured(
    given: argparse.Namespace, detector: Detector, array: Array, detections: Detections
) -> tuple[list[dict[str, Any]], str]:
    """What was measured, for JSON and for the eye."""

    def say(what: str) -> None:
        if sys.stderr.isatty():
            print(f"timing: {what}", file=sys.stderr)

    image = to_tensor(array) if array.dtype != "uint8" else array
    if given.what == "ablation":
        rows = bench_ablation(detector, image, detections, say=say)
        return as_records(rows), as_table(rows)
    if given.what == "d_rise":
        settings = {} if given.n_masks is None else {"n_masks": given.n_masks}  # the library's own default
        settings["agreement_masks"] = given.compare_masks
        rates = bench_d_rise(
            detector, image, detections, batch_size=given.batch_size, seed=given.seed or 0, say=say, **settings
        )
        return as_rate_records(rates), as_rate_table(rates)
    projections = bench_eigen_cam(detector, image)
    return [asdict(one) for one in projections], as_projection_table(projections)
