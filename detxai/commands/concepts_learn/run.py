"""``detxai concepts learn``: an explainer for one detector."""

from __future__ import annotations

import argparse
import json

from detxai.commands.config import write_config
from detxai.commands.options import FAILED, no_repeats, shows_progress
from detxai.commands.requested_detector import requested_detector
from detxai.concepts.learned.images import folder_images, scene_images
from detxai.concepts.learned.learn import Learnt, learn_explainer
from detxai.concepts.learned.settings import LearnSettings
from detxai.settings import check_settings


def run(given: argparse.Namespace) -> int:
    """Train an explainer; the exit code."""
    settings = {"objective": given.objective, "seed": given.seed, **no_repeats(given.settings)}
    check_settings("concepts learn", LearnSettings, settings)
    wanted = LearnSettings(**settings)
    images = folder_images(given.images) if given.images is not None else scene_images(given.scenes)
    source = {"scenes": given.scenes} if given.images is None else {"images": str(given.images)}
    learnt = learn_explainer(
        requested_detector(given), images, given.out, wanted, source=source, progress=shows_progress(given)
    )
    write_config(given, given.out / "run.yaml")
    print(json.dumps(_summary(learnt), indent=2) if given.json else _described(learnt))
    return FAILED if learnt.failures else 0


def _summary(learnt: Learnt) -> dict[str, object]:
    return {"explainer": str(learnt.path), "card": dict(learnt.card), "failures": list(learnt.failures)}


def _described(learnt: Learnt) -> str:
    card = learnt.card
    lines = [f"{learnt.path}: trained on {card['n_boxes']} boxes of {card['n_images']} images"]
    if "held_out_explained_share" in card:
        lines.append(
            f"on {card['n_held_out_images']} images that were held out it explains "
            f"{card['held_out_explained_share']:.2f} of the variance of the detector's answers (a hill over the box: "
            f"{card['held_out_explained_share_of_prior']:.2f})"
        )
    if "held_out_divergence" in card:
        lines.append(
            f"on {card['n_held_out_images']} images that were held out its maps are {card['held_out_divergence']:.2f} "
            "nats from those of the default method (a hill over the box: "
            f"{card['held_out_divergence_of_prior']:.2f})"
        )
    lines += [f"failed: {one['image']}: {one['error']}" for one in learnt.failures[:10]]
    lines.append(f"use it: detxai explain IMAGE --method l2x --set explainer={learnt.path}")
    return "\n".join(lines)
