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
from detxai.commands.model_options import add_model_options, requested_detector
from detxai.commands.options import a_path, fraction, whole
from detxai.detections import Detections
from detxai.images import Array, load_image, to_tensor


def add_bench(commands: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        "bench", help="side by side in one process: what a method costs here, at its peers, and by brute force"
    )
    command.add_argument("what", choices=["ablation", "d_rise", "eigen_cam"])
    add_model_options(command)
    command.add_argument("--image", required=True, type=a_path)
    command.add_argument("--score-threshold", type=fraction, default=0.25, metavar="S", help="default: 0.25")
    command.add_argument("--max-boxes", type=whole(1), default=20, metavar="N", help="the N best boxes; default: 20")
    command.add_argument("--n-masks", type=whole(1), default=None, metavar="N", help="d_rise: a round; default: 64")
    command.add_argument(
        "--compare-masks", type=whole(0), default=400, metavar="N", help="d_rise: masks for the peer's map; 0: none"
    )
    command.add_argument("--batch-size", type=whole(1), default=None, metavar="B", help="d_rise: default: what fits")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_bench)
    return command


def _bench(given: argparse.Namespace) -> int:
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
        rates = bench_d_rise(detector, image, detections, batch_size=given.batch_size, say=say, **settings)
        return as_rate_records(rates), as_rate_table(rates)
    projections = bench_eigen_cam(detector, image)
    return [asdict(one) for one in projections], as_projection_table(projections)
