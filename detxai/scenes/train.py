"""Train the detectors of the scenes: ``python -m detxai.scenes.train --model frcnn|yolo --out FOLDER``.

Run it again to go on where it stopped. The shipped weights took about 50 minutes each on one CPU core that was shared
with other work; ``--device cuda`` is faster.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from detxai.scenes.train_frcnn import FrcnnTraining, train_frcnn
from detxai.scenes.train_yolo import YoloTraining, train_yolo

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
        steps = {"steps": options.steps} if options.steps else {}
        weights = train_frcnn(out, FrcnnTraining(seed=options.seed, **steps), options.device, options.progress)
    else:
        sizes = {"n_train": options.n_train, "epochs": options.epochs}
        given = {name: value for name, value in sizes.items() if value}
        weights = train_yolo(out, YoloTraining(seed=options.seed, **given), options.device, options.progress)
    measure = f"python -m detxai.scenes.card --model {options.model} --weights {weights}"
    log.info("wrote %s; measure it with: %s", weights, measure)
    return weights


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m detxai.scenes.train", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("frcnn", "yolo"), required=True)
    parser.add_argument("--out", required=True, help="folder for the checkpoint and the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:0, ...")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    parser.add_argument("--steps", type=int, default=0, help="Faster R-CNN: optimiser steps; 0 for the default")
    parser.add_argument("--n-train", type=int, default=0, help="YOLO: training scenes; 0 for the default")
    parser.add_argument("--epochs", type=int, default=0, help="YOLO: passes over them; 0 for the default")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")
    return parser


if __name__ == "__main__":
    main()
