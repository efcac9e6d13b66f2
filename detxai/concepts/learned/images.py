"""The images that an explainer is trained on: a folder of files, or scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detxai.data.given_paths import expect_folder
from detxai.data.readers.annotated_images import expect_images, image_names
from detxai.images import load_image, to_uint8
from detxai.scenes.scene import generate
from detxai.scenes.world import KINDS

FIRST_SCENE = 20_000  # seed: neither the bundled detectors' training scenes nor those of evaluations and model cards


@dataclass(frozen=True, eq=False)
class TrainingImage:
    """One image, not read yet.

    Attributes:
        name: its file name, or what stands for one.
        load: gives its pixels, uint8 (H, W, 3) RGB.
    """

    name: str
    load: Callable[[], npt.NDArray[np.uint8]]


def folder_images(folder: Path) -> list[TrainingImage]:
    """Every image in a folder and the folders in it, sorted by name.

    Raises:
        FileNotFoundError, ValueError: there is no such folder, or no image in it.
    """
    expect_folder(folder, "images")
    names = image_names(folder, folder)
    expect_images(names, f"images: {folder}")
    return [TrainingImage(name, partial(_read, folder / name)) for name in names]


def scene_images(n: int) -> list[TrainingImage]:
    """``n`` scenes, all kinds in turn, the same every time; from none of them the bundled detectors have learnt.

    Raises:
        ValueError: ``n`` is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    seeds = range(FIRST_SCENE, FIRST_SCENE + n)
    return [TrainingImage(f"scene-{seed}", partial(_scene, seed)) for seed in seeds]


def _read(path: Path) -> npt.NDArray[np.uint8]:
    return to_uint8(load_image(path))


def _scene(seed: int) -> npt.NDArray[np.uint8]:
    return generate(seed, KINDS[(seed - FIRST_SCENE) % len(KINDS)]).image
