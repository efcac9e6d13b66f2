"""Overlays of one image, epoch after epoch: single frames, a strip, and a GIF."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image

from detxai.detections import Detections
from detxai.explanation import Explanation
from detxai.images import load_image, to_uint8
from detxai.pages.pictures import captioned, grid, outline, under_map
from detxai.runs.files import replacing

log = logging.getLogger(__name__)

HEIGHT, WIDEST = 240, 480  # pixels of a frame's photo: small enough to write every epoch
COLUMNS = 8
MAX_FRAMES = 64  # frames on a strip; longer runs are thinned evenly
MILLISECONDS = 400  # a frame of the GIF
TITLE = "evidence for the outlined box, each map as a share of its own peak"
COMPRESSION_LEVEL = 1  # zlib's level: a third of the time of the default, for a tenth more bytes
PATTERN = re.compile(r"epoch_(\d+)\.png")


def frame(explanation: Explanation, detection: Detections | None, lines: Sequence[str]) -> PIL.Image.Image:
    """A small overlay: the photo under its map, the box, and lines of text above.

    Drawn by Pillow, some ten times as fast as ``detxai.pages.overlays.overlay``: the time budget pays for every frame.

    Args:
        explanation: the map; drawn as a share of its own peak.
        detection: the box to outline, of length 1.
        lines: of the caption, one above the other.
    """
    height, width = explanation.image.shape[:2]
    scale = min(HEIGHT / height, WIDEST / width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    picture = under_map(explanation, size, grey=False)
    if detection is not None:
        outline(picture, detection.boxes[0].tolist(), scale=scale)
    return captioned(picture, lines, margin=4)


def frame_path(folder: Path, epoch: int) -> Path:
    """``folder/epoch_0007.png``."""
    return folder / f"epoch_{epoch:04d}.png"


def write_picture(picture: PIL.Image.Image, path: Path) -> None:
    """Write it; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        picture.save(temporary, compress_level=COMPRESSION_LEVEL)


def frames_of(folder: Path) -> dict[int, Path]:
    """The frames in a folder: epoch -> file, in order."""
    found = {int(match[1]): file for file in folder.iterdir() if (match := PATTERN.fullmatch(file.name))}
    return dict(sorted(found.items()))


def write_strip(folder: Path) -> tuple[Path, Path] | None:
    """A filmstrip beside the folder of frames: ``folder.png``, and ``folder.gif``; None where there are no frames.

    The strip reads from left to right and from the top, under a line that names it.
    """
    read = (_read(file) for file in _thinned(list(frames_of(folder).values())))
    frames = [picture for picture in read if picture is not None]
    if not frames:
        return None
    size = max(picture.width for picture in frames), max(picture.height for picture in frames)
    strip = captioned(grid(frames, COLUMNS), [f"{folder.name}: {TITLE}"])
    png, gif = folder.with_name(f"{folder.name}.png"), folder.with_name(f"{folder.name}.gif")
    with replacing(png) as temporary:
        strip.save(temporary, compress_level=COMPRESSION_LEVEL)
    with replacing(gif) as temporary:
        first, *rest = (_few_colours(_padded(picture, size)) for picture in frames)
        first.save(temporary, save_all=True, append_images=rest, duration=MILLISECONDS, loop=0)
    return png, gif


def strip_is_due(n_frames: int, n_written: int) -> bool:
    """Whether to redo a strip: each time it has grown by half, so that the work stays linear in the frames.

    >>> strip_is_due(1, 0), strip_is_due(2, 1), strip_is_due(5, 4), strip_is_due(6, 4)
    (True, True, False, True)
    """
    return n_frames >= max(n_written + 1, n_written * 3 // 2)


def frames_on_strip(n_frames: int) -> int:
    """How many of so many frames a strip shows."""
    return min(n_frames, MAX_FRAMES)


def _thinned(files: Sequence[Path]) -> list[Path]:
    if len(files) <= MAX_FRAMES:
        return list(files)
    return [files[round(i * (len(files) - 1) / (MAX_FRAMES - 1))] for i in range(MAX_FRAMES)]


def _read(file: Path) -> PIL.Image.Image | None:
    try:
        return PIL.Image.fromarray(to_uint8(load_image(file)))
    except ValueError as error:  # a full disk or a crash cut it off: the others are shown
        log.warning("left out of the strip: %s", error)
        return None


def _padded(picture: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    if picture.size == size:
        return picture
    whole = PIL.Image.new("RGB", size, "white")
    whole.paste(picture)
    return whole


def _few_colours(picture: PIL.Image.Image) -> PIL.Image.Image:
    """256 colours, as a GIF has; an octree's are nearly those of Pillow's own choice, at a thirtieth of the time."""
    return picture.quantize(256, method=PIL.Image.Quantize.FASTOCTREE, dither=PIL.Image.Dither.NONE)


def as_array(picture: PIL.Image.Image) -> npt.NDArray[np.uint8]:
    """A picture as uint8 (H, W, 3)."""
    return np.asarray(picture.convert("RGB"))
