"""The page of ``detxai concepts attack``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from detxai.concepts.attacks.comparison import AttackComparison
from detxai.engine.attacks.attack import Attack
from detxai.explanation import Explanation
from detxai.pages.html import render
from detxai.pages.pictures import data_uri, fitted, heat_picture, outline, under_map

SIDE = 300  # longest side of a picture, pixels
VISIBLE = 8  # times: how much a change is amplified, so that it can be seen


@dataclass(frozen=True)
class AttackSection:
    """One box on the page: its title, ``(title, data URI)`` of each picture, and its numbers."""

    title: str
    pictures: Sequence[tuple[str, str]]
    row: Mapping[str, Any]


def attack_section(name: str, comparison: AttackComparison) -> AttackSection:
    """A box with its pictures."""
    row = comparison.as_json()
    before, after, free = comparison.explanation, comparison.attacked_explanation, comparison.regions[0].attack
    box = row["box"]
    pictures = [
        ("the image", _boxed(free.image, box)),
        (f"its map ({before.method})", _mapped(before, box)),
        ("energy of the attack within L2", _energy(comparison.probe, box)),
        ("attacked anywhere", _boxed(free.attacked, box)),
        (f"what that changed, {VISIBLE} times", _change(free, box)),
        ("the box's map in the attacked image", _mapped(after, box)),
    ]
    found = [f"{free.detections.name(i)} {float(free.detections.scores[i]):.2f}" for i in range(len(free.detections))]
    title = f"{name}: {row['class']}, {row['goal']}"
    return AttackSection(title, pictures, {**row, "found": ", ".join(found[:6]) or "nothing"})


def attack_page(
    sections: Sequence[AttackSection], means: Mapping[str, Any], about: Mapping[str, Any], failures: Mapping[str, str]
) -> str:
    """The whole document."""
    return render("attacks.html", sections=sections, means=means, about=about, failures=failures)


def _size(shape: tuple[int, ...]) -> tuple[tuple[int, int], float]:
    """(width, height) of a picture of an image of this shape, and its scale."""
    scale = SIDE / max(shape[:2])
    return (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))), scale


def _boxed(image: Any, box: Sequence[float]) -> str:
    size, scale = _size(image.shape)
    return data_uri(outline(fitted(image, size), box, scale=scale), "PNG")


def _mapped(explanation: Explanation, box: Sequence[float]) -> str:
    size, scale = _size(explanation.image.shape)
    return data_uri(outline(under_map(explanation, size), box, scale=scale), "PNG")


def _energy(attack: Attack, box: Sequence[float]) -> str:
    size, scale = _size(attack.image.shape)
    # the root: energies span orders of magnitude, and a few pixels would be all there is to see
    shown = np.sqrt(attack.energy / max(float(attack.energy.max()), 1e-12))
    return data_uri(outline(heat_picture(shown).resize(size, PIL.Image.Resampling.NEAREST), box, scale=scale), "PNG")


def _change(attack: Attack, box: Sequence[float]) -> str:
    size, scale = _size(attack.image.shape)
    change = attack.attacked.astype(np.int16) - attack.image
    shown = (128 + VISIBLE * change).clip(0, 255).astype(np.uint8)
    picture = PIL.Image.fromarray(shown).resize(size, PIL.Image.Resampling.NEAREST)
    return data_uri(outline(picture, box, scale=scale), "PNG")
