"""Baselines are what they say, and peers' maps are those that the peers' own code makes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn

import detxai
from detxai.adapters import GradCamView
from detxai.detections import Detections
from detxai.evaluate.baselines import BoxCentre, BoxMap, PlantedMask, PlantedObject, RandomMap
from detxai.evaluate.contestants import contestants
from detxai.evaluate.peers import GradCamEigenCAM, UltralyticsLayerCAM
from detxai.evaluate.photos.scene_photos import scene_photos
from detxai.evaluate.photos.selection import EvaluatedDetections
from detxai.metrics import Objects
from detxai.metrics.inputs.roc_area import roc_area
from detxai.scenes import CLASS_NAMES, generate, load_yolo

TWO = Detections([[2.0, 1.0, 6.0, 9.0], [0.0, 0.0, 8.0, 4.0]], [0.9, 0.8], [1, 2])
GREY = np.full((10, 12, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def small() -> Any:
    return detxai.wrap(small_faster_rcnn())


def test_random_maps_are_at_chance(small: Any) -> None:
    areas = []
    for seed in range(40):
        scene = generate(seed, "local")
        found = Detections(scene.boxes, [0.9] * len(scene), scene.labels)
        maps = torch.from_numpy(np.stack([e.values for e in RandomMap()(small, scene.image, found)]))
        areas += roc_area(maps, torch.from_numpy(scene.evidence)).tolist()
    error = float(np.std(areas)) / math.sqrt(len(areas))
    assert error < 0.05
    assert abs(np.mean(areas) - 0.5) < 3 * error


def test_random_maps_depend_on_seed_image_and_box_alone(small: Any) -> None:
    first, second = RandomMap()(small, GREY, TWO)
    assert not np.array_equal(first.values, second.values)
    (alone,) = RandomMap()(small, GREY, TWO[1])
    assert np.array_equal(alone.values, second.values)
    for other in (RandomMap(seed=1)(small, GREY, TWO), RandomMap()(small, GREY + np.uint8(1), TWO)):
        assert not np.array_equal(other[0].values, first.values)
    assert RandomMap(cells=None)(small, GREY, TWO)[0].values.shape == (10, 12)


def test_the_box_and_its_centre_by_hand(small: Any) -> None:
    box, _ = (explanation.values for explanation in BoxMap()(small, GREY, TWO))
    assert box.sum() == 4 * 8
    assert (box[1:9, 2:6] == 1).all()
    hill, _ = (explanation.values for explanation in BoxCentre()(small, GREY, TWO))
    assert hill[4, 3] == pytest.approx(math.exp(-((0.5 / 2) ** 2) - (0.5 / 4) ** 2))  # centre (4, 5), half sides 2, 4
    assert hill[4, 3] == hill[5, 4] == hill.max()


def test_the_planted_mask_is_the_evidence_of_each_object() -> None:
    (one,) = scene_photos(dict(enumerate(CLASS_NAMES)), ["joint"], 1)
    scene = generate(500, "joint")
    boxes = [scene.boxes[0].tolist(), [0, 0, 9, 9]]
    sample = EvaluatedDetections(0, one, Detections(boxes, [0.9, 0.9], [7, 7]), (0, 1), (0, -1))
    maps = PlantedMask().maps(sample, one.load()[1])
    assert np.array_equal(maps[0].numpy() == 1, scene.evidence[0])
    assert not maps[1].any()


@pytest.mark.parametrize("kind", ["local", "context"])
def test_the_planted_object_comes_after_its_evidence_and_before_all_else(kind: Any) -> None:
    (one,) = scene_photos(dict(enumerate(CLASS_NAMES)), [kind], 1)
    scene = generate(500, kind)
    owner = next(g for g in range(len(scene)) if scene.evidence[g].any())
    boxes = [scene.boxes[owner].tolist(), [0, 0, 9, 9]]
    sample = EvaluatedDetections(0, one, Detections(boxes, [0.9, 0.9], [0, 0]), (0, 1), (owner, -1))
    first, nothing = PlantedObject().maps(sample, one.load()[1])
    evidence = torch.from_numpy(scene.evidence[owner])
    body = torch.from_numpy(scene.silhouettes[owner]) & ~evidence
    assert float(first[evidence].min()) > float(first[body].max())
    assert float(first[body].min()) > 0.2  # blurred in both directions: a corner keeps a quarter
    assert float(first[~evidence & ~body].mean()) < 0.05
    assert not nothing.any()


def test_a_planted_object_needs_masks() -> None:
    (one,) = scene_photos(dict(enumerate(CLASS_NAMES)), ["local"], 1)
    truth = one.load()[1]
    sample = EvaluatedDetections(0, one, Detections([[0, 0, 9, 9]], [0.9], [0]), (0,), (0,))
    without = replace(truth, objects=Objects(truth.objects.boxes, truth.objects.labels))
    with pytest.raises(ValueError, match="planted_object: the objects have no masks"):
        PlantedObject().maps(sample, without)
    with pytest.raises(ValueError, match="planted_object: only the evidence of scenes is known"):
        PlantedObject().maps(sample, replace(truth, evidence=None))


def test_grad_cams_eigen_cam_is_grad_cams(small: Any) -> None:
    from pytorch_grad_cam import EigenCAM

    view = GradCamView(small, photo())
    with EigenCAM(view, view.target_layers) as cam:
        expected = view.to_image(cam(view.input_tensor, targets=[])[0])
    (found,) = GradCamEigenCAM()(small, photo())
    assert np.array_equal(found.values, expected)
    assert found.detection is None


@pytest.mark.parametrize("most", [1, 16])
def test_the_layer_cam_of_ultralytics_is_theirs(most: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Their function writes a picture; the map is caught on its way to the colours."""
    pytest.importorskip("ultralytics")
    from ultralytics.utils import plotting

    yolo = load_yolo()
    image = generate(503, "local").image  # of the input's own size: no resizing between the two
    caught: list[np.ndarray] = []
    coloured = plotting.cv2.applyColorMap

    def catching(map_: np.ndarray, which: int) -> np.ndarray:
        caught.append(map_)
        return np.asarray(coloured(map_, which))

    monkeypatch.setattr(plotting.cv2, "applyColorMap", catching)
    detector = detxai.wrap(yolo)
    inputs = detector.prepare(image)

    class Backend(torch.nn.Module):
        """What their predictor hands over: the network as ``model``."""

        def __init__(self) -> None:
            super().__init__()
            self.model = yolo.model

        def forward(self, tensor: torch.Tensor) -> Any:
            return self.model(tensor)

    with detector.borrowed():
        plotting.class_activation_map(Backend(), inputs.tensor, ["bus.jpg"], tmp_path, conf=0.25, topk=most)
    (theirs,) = caught
    ours = UltralyticsLayerCAM(most=most)(detector, image)[0].values
    assert ours.max() == pytest.approx(1)
    assert (ours * 255) == pytest.approx(theirs.astype(np.float64), abs=1.01)  # theirs is cut to whole numbers


def test_names_settings_and_doubles(small: Any) -> None:
    named = contestants(["eigen_cam", "fast=ablation_cam", "random"], {"fast": {"ratio_channels_to_ablate": 0.1}})
    assert list(named) == ["eigen_cam", "fast", "random"]
    assert named["fast"].ratio_channels_to_ablate == 0.1  # type: ignore[union-attr]
    assert list(contestants([detxai.EigenCAM()])) == ["eigen_cam"]
    assert list(contestants({"mine": detxai.EigenCAM()})) == ["mine"]


@pytest.mark.parametrize(
    ("methods", "settings", "message"),
    [
        ([], {}, "at least one method"),
        (["eigen"], {}, "methods must be 'all' or some of .*ablation_cam, .*aise, .*random.*; got 'eigen'"),
        (["random", "random"], {}, "'random' twice; enter it the second time as NAME=random"),
        (["a/b=random"], {}, "got 'a/b'"),
        (["random"], {"box": {}}, "settings are for box, but the methods are only random"),
        (["random"], {"random": {"size": 1}}, r"random has the settings \['cells', 'seed'\], got size"),
        (["ablation_cam"], {"ablation_cam": {"ratio": 1}}, "ablation_cam has the settings"),
        (["random"], {"random": {"cells": 0}}, "cells must be a whole number from 1, or None, got 0"),
    ],
)
def test_what_cannot_compete_is_named(methods: list[str], settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contestants(methods, settings)


def test_a_text_is_no_list_of_methods() -> None:
    with pytest.raises(TypeError, match="list of names"):
        contestants("random")
