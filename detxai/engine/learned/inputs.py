"""What a learned explainer reads of an image: both windows of each box, in pixels and in the detector's features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from detxai.adapters.detector import Detector, Features, Inputs
from detxai.adapters.network import NetworkDetector
from detxai.detections import Detections
from detxai.engine.learned.network import PIXELS_A_CELL, ExplainerInputs
from detxai.engine.learned.windows import GRID, N_WINDOWS, Windows
from detxai.geometry import Geometry, cell_size
from detxai.images import Image


def explainer_inputs(
    detector: Detector, image: Image | Inputs | Features, detections: Detections, layers: Sequence[str]
) -> tuple[ExplainerInputs, Windows, Inputs]:
    """What the network reads of T boxes of an image, their windows, and the image as the detector reads it.

    One pass through the detector up to ``layers``; none where there are none.

    Args:
        detector: whose preparation and features.
        image: the image.
        detections: the boxes.
        layers: names of the detector's layers; empty: only pixels are read.
    """
    if layers:
        if not isinstance(detector, NetworkDetector):
            raise TypeError(f"layers must be empty for a detector without a network, got {list(layers)}")
        features = detector.features(image, layers)
        clean, levels = features.inputs, list(features.levels.values())
    else:
        clean, levels = detector.prepare_one(image), []
    geometry = clean.geometries[0]
    (top, left), (height, width) = geometry.offset, geometry.resized_size
    boxes = geometry.boxes_to_input(detections.boxes.to(clean.tensor.device))
    windows = Windows((height, width), boxes - boxes.new_tensor([left, top, left, top]))
    pixels = clean.tensor[0, :, top : top + height, left : left + width].float()
    inputs = ExplainerInputs(
        windows.crops(pixels, GRID * PIXELS_A_CELL),
        _features(levels, windows, geometry),
        windows.positions(),
        windows.prior(),
        windows.shares(),
        detections.labels.to(clean.tensor.device),
    )
    return inputs, windows, clean


def _features(levels: Sequence[Tensor], windows: Windows, geometry: Geometry) -> Tensor:
    """(T, 2, C, GRID, GRID): all levels (1, c, h, w) of the model's input, read at the windows' cells."""
    n_boxes = len(windows)
    shift = windows.corners.new_tensor([geometry.offset[1], geometry.offset[0]] * 2)
    corners = (windows.corners + shift).flatten(0, 1)
    read = [windows.corners.new_zeros(n_boxes, N_WINDOWS, 0, GRID, GRID)]
    for level in levels:
        cells = [cell_size(size, n) for size, n in zip(geometry.input_size, level.shape[-2:], strict=True)]
        # roi_align takes feature i to lie in the middle of its cell
        moved = corners + (0.5 - geometry.cell_centre) * corners.new_tensor([cells[1], cells[0]] * 2)
        in_cells = moved / corners.new_tensor([cells[1], cells[0]] * 2)
        found = roi_align(level.float(), [in_cells], GRID, 1.0, sampling_ratio=2, aligned=True)
        read.append(found.view(n_boxes, N_WINDOWS, -1, GRID, GRID))
    return torch.cat(read, 2)
