"""``detxai bench``: what a method costs, beside its peers, in one process."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from detxai.adapters.loading import BUNDLED, load_detector
from detxai.adapters.spread import spread_like_trained
from detxai.bench import as_records, as_table, bench_ablation
from detxai.commands.options import MODEL_HELP, fraction, on_device
from detxai.images import load_image, to_tensor


def add_bench(commands: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        "bench", help="side by side in one process: grad-cam, brute force, and ours with each shortcut in turn"
    )
    command.add_argument("what", choices=["ablation"])
    command.add_argument("--model", required=True, help=MODEL_HELP)
    command.add_argument("--weights", type=Path, metavar="FILE", help="a torchvision builder's state_dict")
    command.add_argument("--image", required=True, type=Path)
    command.add_argument("--score-threshold", type=fraction, default=0.25, metavar="S", help="default: 0.25")
    command.add_argument("--max-boxes", type=int, default=20, metavar="N", help="the N best boxes; default: 20")
    command.add_argument("--device", default=None, help="such as cpu or cuda:0; default: where the model is")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_bench)
    return command


def _bench(given: argparse.Namespace) -> int:
    array = load_image(given.image)
    detector = on_device(load_detector(given.model, weights=given.weights), given.device)
    random = detector.family == "faster_rcnn" and given.weights is None and ":" not in given.model
    if random and given.model not in BUNDLED:
        spread_like_trained(detector.model, to_tensor(array).to(detector.device, detector.dtype))
    detections = detector.detect(array, given.score_threshold)[: given.max_boxes]

    def say(what: str) -> None:
        if sys.stderr.isatty():
            print(f"timing: {what}", file=sys.stderr)

    rows = bench_ablation(detector, array, detections, say=say)
    threads = torch.get_num_threads()
    if given.json:
        about = {"model": given.model, "n_boxes": len(detections), "threads": threads, "torch": torch.__version__}
        print(json.dumps({**about, "rows": as_records(rows)}, indent=2))
    else:
        print(
            f"{given.model}, {given.image.name}, {len(detections)} boxes, {threads} threads, torch {torch.__version__}"
        )
        print(as_table(rows))
    return 0
