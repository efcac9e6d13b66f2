"""The pictures of a scene beside its maps: with the box, with its evidence highlighted, and painted without it."""

from __future__ import annotations

import numpy as np
from PIL import Image as PillowImage

from detxai.explanation import Explanation
from detxai.pages.demo_page import Panel
from detxai.pages.pictures import data_uri, fitted, outline, under_map
from detxai.scenes.scene import Scene, erase
from detxai.scenes.world import CLASS_NAMES

ENLARGED = 2  # display pixels for each pixel of a scene
OPACITY = 0.9  # of the strongest evidence
QUALITY = 88


def scene_panels(scene: Scene, index: int) -> tuple[Panel, Panel, Panel]:
    """The scene with the box of one object, its known evidence, and the scene painted again without that."""
    box = scene.boxes[index].tolist()
    photo, evidence = (
        outline(_enlarged(image), box, scale=ENLARGED) for image in (scene.image, _highlighted(scene, index))
    )
    return (
        Panel(f"the picture: {CLASS_NAMES[scene.labels[index]]}", _uri(photo)),
        Panel("the known evidence", _uri(evidence)),
        Panel("painted again without it", _uri(_enlarged(erase(scene, index)))),
    )


def map_picture(explanation: Explanation, box: list[float]) -> str:
    """A map over its scene with the box in question, as a data URI."""
    height, width = explanation.image.shape[:2]
    size = width * ENLARGED, height * ENLARGED
    picture = under_map(explanation, size, opacity=OPACITY)
    return _uri(outline(picture, box, scale=ENLARGED))


def _highlighted(scene: Scene, index: int) -> np.ndarray:
    """A grey, dim picture with the evidence painted a green that no scene has."""
    picture = np.repeat(scene.image.mean(axis=2, keepdims=True) * 0.55, 3, axis=2)
    picture[scene.evidence[index]] = (60, 255, 150)
    return picture.astype(np.uint8)


def _enlarged(image: np.ndarray) -> PillowImage.Image:
    return fitted(image, (image.shape[1] * ENLARGED, image.shape[0] * ENLARGED))


def _uri(picture: PillowImage.Image) -> str:
    return data_uri(picture, "WEBP", quality=QUALITY)
