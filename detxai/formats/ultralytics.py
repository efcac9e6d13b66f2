"""Ultralytics' ``Results``. ultralytics is imported only to make one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from detxai.detections import Detections
from detxai.formats.checks import class_numbers, expect_type, on_cpu
from detxai.images import Image, load_image, to_uint8


def from_ultralytics(result: Any) -> Detections:
    """An ultralytics ``Results``, which is of one image, as detections; rotated boxes as the upright ones around them.

    Raises:
        TypeError: ``result`` is no ``Results`` (``YOLO.predict`` returns a list of them, one an image).
        ValueError: it has no boxes, as a classifier's has none.
    """
    if not all(hasattr(result, name) for name in ("boxes", "names", "orig_shape")):
        hint = "; pass its entries one by one" if isinstance(result, (list, tuple)) else ""
        raise TypeError(f"result must be an ultralytics Results of one image, got {type(result).__name__}{hint}")
    found = result.boxes if result.boxes is not None else getattr(result, "obb", None)
    if found is None:
        raise ValueError("result must have boxes or rotated boxes, got neither: is it of a classifier?")
    return Detections(on_cpu(found.xyxy), on_cpu(found.conf), class_numbers("cls", found.cls), dict(result.names))


def to_ultralytics(detections: Detections, image: Image, *, path: str = "") -> Any:
    """Detections as an ultralytics ``Results``, for its plots and exports.

    Args:
        detections: their labels must all have names, as ``Results`` has no other way to show them; a label without
            one is named by its number.
        image: the image they are of.
        path: the image's file name, for ``Results.path``.

    Raises:
        ImportError: ultralytics is not installed.
    """
    expect_type(detections, Detections, "detections", "detxai.Detections")
    pixels = to_uint8(load_image(image))
    try:
        from ultralytics.engine.results import Results
    except ImportError as error:
        raise ImportError('to_ultralytics needs ultralytics: pip install "detxai[yolo]"') from error
    columns = (detections.boxes, detections.scores[:, None], detections.labels[:, None].float())
    names = {label: str(label) for label in detections.labels.tolist()} | dict(detections.class_names)
    bgr = np.ascontiguousarray(pixels[..., ::-1])  # ultralytics keeps images as OpenCV reads them
    return Results(bgr, path=path, names=names, boxes=torch.cat(columns, dim=1))
