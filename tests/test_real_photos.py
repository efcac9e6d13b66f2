"""What only real photos and trained detectors can show; minutes, so only with ``-m slow``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import detxai
from detxai.adapters.network import require_network
from detxai.methods.eigen_cam import principal_projection

pytestmark = pytest.mark.slow


def _offset_in_boxes(values: Tensor, boxes: Tensor) -> list[tuple[float, float]]:
    """For each box, how far the centre of its heat lies below and right of the box's own centre, pixels."""
    offsets = []
    for x1, y1, x2, y2 in boxes.int().tolist():
        heat = values[y1:y2, x1:x2]
        if heat.sum() > 0:
            rows = (heat.sum(1) * (torch.arange(len(heat)) + 0.5)).sum() / heat.sum() - len(heat) / 2
            columns = (heat.sum(0) * (torch.arange(heat.shape[1]) + 0.5)).sum() / heat.sum() - heat.shape[1] / 2
            offsets.append((float(rows), float(columns)))
    return offsets


def test_a_faster_rcnns_features_lie_at_the_near_edge_of_their_cells(shared_data: Path) -> None:
    """Red cells light up one level of the pyramid (16 pixels a cell, 32 in the photo). Where cell i is drawn at
    ``i * stride``, as torchvision's anchors have it, the heat lies on the cells; drawn at the middle, it is off."""
    detector = detxai.wrap(f"{shared_data / 'frcnn_bccd.py'}:build")
    offsets: dict[float, list[tuple[float, float]]] = {0.0: [], 0.5: []}
    for photo in sorted((shared_data / "bccd" / "images").glob("*.jpg"))[100:130]:
        found = detector.detect(photo, 0.5)
        inside = (found.boxes[:, :2] > 5).all(1) & (found.boxes[:, 2:] < torch.tensor([635, 475])).all(1)
        features = require_network(detector).features(photo)
        heat = principal_projection(features.levels["backbone:2"])[0]
        for centre, entries in offsets.items():
            geometry = replace(features.inputs.geometries[0], cell_centre=centre)
            values = geometry.map_to_image(heat).clamp(min=0)
            entries += _offset_in_boxes(values, found.boxes[inside & (found.labels == 1)])
    mean = {centre: np.abs(np.mean(entries, axis=0)).max() for centre, entries in offsets.items()}
    assert len(offsets[0.0]) > 200
    assert mean[0.0] < 4
    assert mean[0.5] > 10


def test_the_sign_rule_puts_objects_on_the_positive_side(shared_data: Path) -> None:
    """Over ``coco_dev``: how often a map is higher inside the annotated boxes than outside. The strength of the
    features decides better than the larger of peak and trough, the rule of Seg-Eigen-CAM and grad-cam."""
    pytest.importorskip("ultralytics")
    detector = detxai.wrap(shared_data / "yolov8n_coco.pt")
    coco = json.loads((shared_data / "coco_dev" / "instances.json").read_text())
    boxes: dict[int, list[list[float]]] = {}
    for annotation in coco["annotations"]:
        boxes.setdefault(annotation["image_id"], []).append(annotation["bbox"])
    right: dict[str, dict[str, list[bool]]] = {}
    for entry in coco["images"]:
        inside = torch.zeros(entry["height"], entry["width"], dtype=torch.bool)
        for x, y, width, height in boxes.get(entry["id"], []):
            inside[int(y) : int(y + height) + 1, int(x) : int(x + width) + 1] = True
        if not 0 < float(inside.float().mean()) < 0.9:
            continue
        features = require_network(detector).features(shared_data / "coco_dev" / "images" / entry["file_name"])
        for name, level in features.levels.items():
            values = features.inputs.geometries[0].map_to_image(principal_projection(level)[0])
            upright = bool(values[inside].mean() > values[~inside].mean())
            by_extremes = upright if values.max() > -values.min() else not upright
            entries = right.setdefault(name, {"strength": [], "extremes": []})
            entries["strength"].append(upright)
            entries["extremes"].append(by_extremes)
    shares = {name: {rule: float(np.mean(hits)) for rule, hits in rules.items()} for name, rules in right.items()}
    # one photo in fifty may fall either way by the rounding of another processor
    assert all(rules["strength"] > rules["extremes"] - 0.02 for rules in shares.values()), shares
    assert np.mean([rules["strength"] - rules["extremes"] for rules in shares.values()]) > 0.02, shares
    assert np.mean([rules["strength"] for rules in shares.values()]) > 0.75, shares
