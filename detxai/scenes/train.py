"""Train the detectors of the scenes: ``python -m detxai.scenes.train --model frcnn|yolo|rtdetr --out FOLDER``.

Run it again to go on where it stopped. The shipped weights of the first two took about 50 minutes each on one CPU core
that was shared with other work; ``--device cuda`` is faster. Those of the RT-DETR took 5 minutes on an H100 beside 14
processes that painted scenes; such a run, with ``--minutes`` and ``--workers``, does not repeat.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detxai.scenes.detectors.detecting import load_scene_detector
from detxai.scenes.detectors.proof import quick_figures
from detxai.scenes.training.train_frcnn import FrcnnTraining, train_frcnn
from detxai.scenes.training.train_rtdetr import RtdetrTraining, train_rtdetr
from detxai.scenes.training.train_yolo import YoloTraining, train_yolo
from detxai.scenes.world import KINDS

log = logging.getLogger("detxai.scenes")


def main(arguments: Sequence[str] | None = None) -> Path:
    """Parse, train, and return the path of the weights."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if options.model == "frcnn":
        weights = train_frcnn(out, FrcnnTraining(**_given(options, "steps")), options.device, options.progress)
    elif options.model == "yolo":
        settings = YoloTraining(**_given(options, "n_train", "epochs"))
        weights = train_yolo(out, settings, options.device, options.progress)
    else:
        names = ("steps", "minutes", "workers", "batch_size", "learning_rate", "initial")
        weights = train_rtdetr(out, RtdetrTraining(**_given(options, *names)), options.device, options.progress)
    if options.check:
        detect = load_scene_detector(options.model, weights, options.device)
        for kind in KINDS:
            log.info("%s: %s", kind, quick_figures(detect, kind, options.check))
    measure = f"python -m detxai.scenes.card --model {options.model} --weights {weights}"
    log.info("wrote %s; measure it with: %s", weights, measure)
    return weights


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The seed, and those of the options that were given."""
    return {"seed": options.seed, **{name: getattr(options, name) for name in names if getattr(options, name)}}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m detxai.scenes.train", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("frcnn", "yolo", "rtdetr"), required=True)
    parser.add_argument("--out", required=True, help="folder for the checkpoint and the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:0, ...")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    parser.add_argument(
        "--steps", type=int, default=0, help="Faster R-CNN, RT-DETR: optimiser steps; 0 for the default"
    )
    parser.add_argument("--n-train", type=int, default=0, help="YOLO: training scenes; 0 for the default")
    parser.add_argument("--epochs", type=int, default=0, help="YOLO: passes over them; 0 for the default")
    parser.add_argument("--minutes", type=float, default=0, help="RT-DETR: end after so long, whatever the step")
    parser.add_argument("--workers", type=int, default=0, help="RT-DETR: processes that paint; 0 paints between steps")
    parser.add_argument("--batch-size", type=int, default=0, help="RT-DETR: scenes a step; 0 for the default")
    parser.add_argument("--learning-rate", type=float, default=0, help="RT-DETR: the highest; 0 for the default")
    parser.add_argument("--initial", default="", help="RT-DETR: a file of weights to start from")
    parser.add_argument("--check", type=int, default=0, help="then measure roughly on so many scenes of each kind")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")
    return parser


if __name__ == "__main__":
    main()
