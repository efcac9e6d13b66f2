"""The pictures that the page offers: bundled scenes, those of a folder, and uploads within bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from detxai.demo.run import SCENES
from detxai.images import file_size, load_image, to_uint8
from detxai.runs.names import safe_name
from detxai.scenes.scene import generate
from detxai.scenes.world import KINDS

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MOST_IN_FOLDER = 2000


@dataclass(frozen=True)
class Picture:
    """A picture to explain.

    Attributes:
        name: what the page calls it, and where it is shared: its name in the address.
        key: which picture it is.
        path: of its file; None: a bundled scene.
        scene: kind and seed of a bundled scene.
        is_uploaded: whether its file goes when the visitor does.
    """

    name: str
    key: str
    path: Path | None = None
    scene: tuple[str, int] | None = None
    is_uploaded: bool = False

    def load(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB.

        Raises:
            ValueError, OSError: it cannot be read.
        """
        if self.scene is not None:
            kind, seed = self.scene
            return generate(seed=seed, kind=kind).image  # type: ignore[arg-type]
        assert self.path is not None
        return to_uint8(load_image(self.path))


@lru_cache(maxsize=1)
def bundled_pictures() -> Mapping[str, Picture]:
    """The scenes of ``detxai demo``, by name: the bundled detectors were made for them."""
    named = {f"scene-{kind}-{seed}": (kind, seed) for kind, seed in SCENES}
    return {name: Picture(name, name, scene=scene) for name, scene in named.items()}


def scene_picture(name: str) -> Picture:
    """The scene with a name such as ``context-30``: its kind, and its seed.

    Raises:
        ValueError: there is no such scene.
    """
    kind, _, seed = name.rpartition("-")
    if kind not in KINDS or not seed.isdecimal():
        raise ValueError(f"name must be a kind of scene and a seed, such as context-30, got {name}")
    return Picture(f"scene-{name}", f"scene-{name}", scene=(kind, int(seed)))


def pictures_in(folder: Path) -> dict[str, Picture]:
    """The pictures of a folder, by file name, as far as their names tell; the first 2,000."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    return {path.name: Picture(path.name, str(path.resolve()), path) for path in files[:MOST_IN_FOLDER]}


def store_upload(file: BinaryIO, name: str, folder: Path, max_pixels: int) -> Picture:
    """Keep an uploaded picture in a folder, if it is one and within the bounds.

    Its header is read before anything of it is decoded.

    Args:
        file: its content.
        name: as the visitor's machine calls it: only letters, digits, ``-``, ``_`` and dots of it are kept.
        folder: which gets the file.
        max_pixels: of the picture.

    Raises:
        ValueError: it is no picture, or too large.
    """
    content = file.read()
    digest = hashlib.sha256(content).hexdigest()
    suffix = Path(name).suffix.lower()
    shown = safe_name(Path(name.replace("\\", "/")).stem) + (suffix if suffix in SUFFIXES else ".png")
    path = folder / f"{digest[:16]}{suffix if suffix in SUFFIXES else '.png'}"
    path.write_bytes(content)
    try:
        check_picture(path, shown, max_pixels)
        load_image(path)
    except ValueError as error:
        path.unlink(missing_ok=True)
        raise ValueError(str(error).replace(str(path), shown)) from None
    return Picture(shown, digest, path, is_uploaded=True)


def check_picture(path: Path, name: str, max_pixels: int) -> None:
    """Raise ``ValueError`` where a file's header tells of no picture, or of one with too many pixels."""
    height, width = file_size(path)
    if width * height > max_pixels:
        raise ValueError(
            f"{name} has {width} x {height} pixels; this page takes {max_pixels / 1e6:g} million. Make it smaller, or "
            "use the command detxai explain"
        )
