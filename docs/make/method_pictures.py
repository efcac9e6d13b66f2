"""Draw what each method says of the same three images: python docs/make/method_pictures.py [METHOD ...]

The images are scenes, the detectors the bundled ones, so that anybody gets the same pictures. They are written to
docs/pictures/methods, and the scenes with what is planted in them to docs/pictures/three_images.webp.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

import detxai
from detxai.adapters.detector import Detector
from detxai.cli import main as main_command
from detxai.explanation import Explanation
from detxai.geometry import box_iou
from detxai.methods import METHODS, methods_without_file
from detxai.pages.colours import blend, colour_map, default_mode, end_of_scale, signed
from detxai.pages.pictures import captioned, fitted, grid, outline
from detxai.scenes import CLASS_NAMES, Kind, Scene, generate

PICTURES = Path(__file__).parents[1] / "pictures"
SCALE = 2  # pixels of a picture for each pixel of a scene
OPACITY = 0.85
GAP = 8
EVIDENCE = (60, 255, 150)  # a green that no scene has


@dataclass(frozen=True)
class Case:
    """One of the three images, and the detector whose box on it is explained."""

    model: str
    kind: Kind
    seed: int

    @cached_property
    def scene(self) -> Scene:
        return generate(self.seed, self.kind)

    @cached_property
    def detector(self) -> Detector:
        return detxai.wrap(self.model)

    @cached_property
    def box(self) -> detxai.Detections:
        """The detection with the largest score."""
        return self.detector.detect(self.scene.image, 0.3)[:1]


CASES = (
    Case("scenes-frcnn", "local", 505),
    Case("scenes-yolo", "context", 504),
    Case("scenes-rtdetr", "shortcut", 511),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="only these; default: all")
    names = parser.parse_args(arguments).methods or [*methods_without_file(), "concepts"]
    (PICTURES / "methods").mkdir(parents=True, exist_ok=True)
    _save(_in_a_row([_planted(case) for case in CASES]), PICTURES / "three_images.webp")
    for name in names:
        _save(_in_a_row([_panel(case, name) for case in CASES]), PICTURES / "methods" / f"{name}.webp")


def _panel(case: Case, name: str) -> PIL.Image.Image:
    """The map of one method over one image; the plain image where the method refuses this detector."""
    method = METHODS[name]
    settings: dict[str, Any] = {method.needs_file: learnt(name, case)} if hasattr(method, "needs_file") else {}
    try:
        boxes = case.box[: int(method.asks_about_boxes)]
        (explanation,) = detxai.explain(case.detector, case.scene.image, name, boxes, **settings)
    except (TypeError, ValueError):
        grey = np.repeat(case.scene.image.mean(2, keepdims=True), 3, axis=2).astype(np.uint8)
        return captioned(_fitted(grey), [f"refused for {case.model}"], margin=GAP)
    box = f"{case.box.name(0)} {float(case.box.scores[0]):.2f}" if method.asks_about_boxes else "no box"
    return captioned(_under_map(explanation, case), [f"{case.model}: {box}"], margin=GAP)


def learnt(method: str, case: Case) -> str:
    """What a method that reads a file has learnt beforehand of a bundled detector, from a few scenes of this kind."""
    if method != "concepts":
        raise ValueError(f"nothing says here how to learn the file of {method}")
    out = Path(tempfile.gettempdir()) / f"concepts-{case.model}-{case.kind}"
    scenes = ["--scenes", case.kind, "--n-scenes", "4", "--max-concepts", "8", "--fits", "1"]
    if main_command(["concepts", "find", "--model", case.model, *scenes, "--out", str(out)]) != 0:
        raise RuntimeError(f"no concepts of {case.model} were found; see {out}")
    return str(out)


def _under_map(explanation: Explanation, case: Case) -> PIL.Image.Image:
    """The photo under its map, by the colours and the scale of ``explanation.show()``."""
    mode = default_mode(explanation)
    shown = signed(explanation.values) if mode == "signed" else explanation.heatmap
    shown = (shown / end_of_scale(explanation, shown)).clip(-1, 1)
    colours: Any = colour_map(mode)((shown + 1) / 2 if mode == "signed" else shown)[..., :3]
    picture = _fitted(blend(explanation.image, colours.astype(np.float32) * 255, OPACITY * np.abs(shown)))
    if explanation.detection is None:
        return picture
    return outline(picture, case.box.boxes[0].tolist(), scale=SCALE)


def _planted(case: Case) -> PIL.Image.Image:
    """The image with its box, and with a green line around the pixels that decide the class."""
    index = int(box_iou(torch.from_numpy(case.scene.boxes), case.box.boxes).argmax())
    image = case.scene.image.copy()
    image[_rim(case.scene.evidence[index])] = EVIDENCE
    picture = outline(_fitted(image), case.box.boxes[0].tolist(), scale=SCALE)
    return captioned(picture, [f"{case.model}: {CLASS_NAMES[case.scene.labels[index]]}"], margin=GAP)


def _rim(mask: np.ndarray) -> np.ndarray:
    """The pixels just outside a mask."""
    padded = np.pad(mask, 2)
    height, width = mask.shape
    shifts = [padded[2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width] for dy in (-2, 0, 2) for dx in (-2, 0, 2)]
    return np.logical_or.reduce(shifts) & ~mask


def _fitted(image: np.ndarray) -> PIL.Image.Image:
    return fitted(image, (image.shape[1] * SCALE, image.shape[0] * SCALE))


def _in_a_row(panels: list[PIL.Image.Image]) -> PIL.Image.Image:
    return grid(panels, len(panels))


def _save(picture: PIL.Image.Image, path: Path) -> None:
    picture.save(path, "WEBP", quality=82, method=6)
    print(path)


if __name__ == "__main__":
    main()
