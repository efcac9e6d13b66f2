"""Measure weights and write their card: ``python -m detxai.scenes.card --model frcnn|yolo|rtdetr --weights FILE``.

The card is two files beside the weights: ``MODEL_CARD.md`` for people and ``model_card.json`` for programs.
"""

import argparse
import datetime
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detxai.runs.files import write_bytes
from detxai.scenes.detectors.detecting import load_scene_detector
from detxai.scenes.detectors.proof import prove
from detxai.scenes.detectors.rtdetr import import_transformers
from detxai.scenes.detectors.yolo import YOLO_ARCHITECTURE
from detxai.scenes.world import KIND_DESCRIPTIONS

log = logging.getLogger("detxai.scenes")

_TITLES = {
    "frcnn": "scenes-frcnn: a small Faster R-CNN",
    "yolo": "scenes-yolo: a small YOLO",
    "rtdetr": "scenes-rtdetr: a small RT-DETR",
}
_LICENCES = {"frcnn": "Apache-2.0", "yolo": "AGPL-3.0 (trained with Ultralytics)", "rtdetr": "Apache-2.0"}


def write_card(model: str, weights: Path, n_scenes: int, seed: int, training: str) -> dict[str, Any]:
    """Measure the weights and write both files of the card; returns its figures.

    Args:
        model: ``"frcnn"``, ``"yolo"`` or ``"rtdetr"``.
        weights: the ``.safetensors`` file; the card is written beside it.
        n_scenes: held-out scenes for each kind.
        seed: the first of their seeds.
        training: the command that made the weights.
    """
    figures = {
        "model": f"scenes-{model}",
        "licence": _LICENCES[model],
        "weights": weights.name,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "bytes": weights.stat().st_size,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "trained_with": training,
        "measured_with": f"python -m detxai.scenes.card --model {model} --weights {weights.name} "
        f"--n-scenes {n_scenes} --seed {seed}",
        "versions": _versions(model),
        **prove(load_scene_detector(model, weights), n_scenes, seed),
    }
    write_bytes(weights.parent / "model_card.json", (json.dumps(figures, indent=2) + "\n").encode())
    write_bytes(weights.parent / "MODEL_CARD.md", _markdown(model, figures).encode())
    return figures


def _versions(model: str) -> dict[str, str]:
    import torchvision

    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    if model == "yolo":
        import ultralytics

        versions.update(ultralytics=ultralytics.__version__, architecture=YOLO_ARCHITECTURE)
    if model == "rtdetr":
        versions.update(transformers=import_transformers().__version__)
    return versions


def _markdown(model: str, figures: dict[str, Any]) -> str:
    goals: dict[str, float] = figures["goals"]
    first, last = (int(seed) for seed in figures["seeds"])
    versions = ", ".join(f"{name} {value}" for name, value in figures["versions"].items())
    rows = "\n".join(_row(figures["kinds"][kind]) for kind in figures["kinds"])
    missed = [kind for kind in figures["kinds"] if kind not in figures["benchmark_kinds"]]
    left_out = ", ".join(missed) if missed else "none"
    kinds = "\n".join(f"- **{kind}**: {text}" for kind, text in KIND_DESCRIPTIONS.items())
    return f"""# {_TITLES[model]}

Trained on `detxai.scenes`, synthetic pictures in which the cause of every label is known. It exists to test
explanations, not to detect anything in photographs.

- Weights: `{figures["weights"]}`, half precision, {figures["bytes"] / 1e6:.1f} MB, SHA-256 `{figures["sha256"]}`
- Licence: {figures["licence"]}
- Trained with: `{figures["trained_with"]}`
- Training scenes have seeds from 1,000,000. While training, a 1 x 1 convolution that is not part of the detector also
  asked every cell of the pyramid whether a far-off cause is in the picture (`detxai/scenes/training/hint.py`).
- Measured on {figures["date"]} with: `{figures["measured_with"]}`
- Software: {versions}

## Is the evidence the cause?

Scenes of seeds {first} to {last} for each kind, none of them used in training. *Tested* are the objects that have
evidence and were detected (IoU at least 0.5, score at least 0.3). A detection has *changed* when score x IoU for its
class falls by half or more.

- AP50: pycocotools COCOeval over the classes of the kind. Goal: at least {goals["ap50"]:.2f}.
- Erased: fraction changed when the scene is painted again without the evidence. Goal: at least {goals["erased"]:.2f}.
- Elsewhere: fraction changed when as many pixels elsewhere are painted flat: on and around the object where the
  evidence is a mark on it, off the object where the evidence is all of it or lies outside.
  Goal: at most {goals["elsewhere"]:.2f}.
- One of two: fraction changed when one mark of two is erased. It should be near 0 where either mark is enough
  (redundant) and near 1 where both are needed (joint).

| kind | scenes | objects | tested | AP50 | erased | elsewhere | one of two | goals met |
|---|---:|---:|---:|---:|---:|---:|---:|---|
{rows}

Kinds that miss a goal, left out of `benchmark_kinds` in `model_card.json`: {left_out}.

## The kinds

{kinds}

The tested objects of `shortcut` are the `gem-upright` ones: a `gem-level` is decided by the absence of the watermark,
which cannot be erased.
"""


def _row(proof: dict[str, Any]) -> str:
    pairs = "" if proof["single_marks"] is None else f"{proof['single_marks']:.3f} of {proof['n_pairs']}"
    cells = [proof["kind"], proof["n_scenes"], proof["n_objects"], proof["n_tested"]]
    cells += [f"{proof[name]:.3f}" for name in ("ap50", "erased", "elsewhere")]
    return "| " + " | ".join(map(str, [*cells, pairs, "yes" if proof["goal_met"] else "**no**"])) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m detxai.scenes.card", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("frcnn", "yolo", "rtdetr"), required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--n-scenes", type=int, default=200, help="held-out scenes for each kind")
    parser.add_argument("--seed", type=int, default=100_000, help="first held-out seed; below 1000000")
    parser.add_argument("--training", default="", help="the command that made the weights")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO)
    training = options.training or f"python -m detxai.scenes.train --model {options.model} --out FOLDER"
    figures = write_card(options.model, options.weights, options.n_scenes, options.seed, training)
    log.info("kinds that reach every goal: %s", ", ".join(figures["benchmark_kinds"]) or "none")


if __name__ == "__main__":
    main()
