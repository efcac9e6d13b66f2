"""LayerCAM of a box is its formula, grad-cam's map where grad-cam is asked the same, and of that box alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn

import detxai
from detxai import LayerCAM
from detxai.adapters import GradCamView
from detxai.adapters.layers import capture
from detxai.scenes import generate, load_frcnn
from detxai.targets import ClassScoreTarget


@pytest.fixture(scope="module")
def small() -> Any:
    return detxai.wrap(small_faster_rcnn())


def test_equals_its_formula_written_out(small: Any) -> None:
    image = photo()
    detections = small.detect(image, 0.2)[:2]
    explanations = LayerCAM()(small, image, detections)
    inputs = small.prepare(image)
    for i, explanation in enumerate(explanations):
        (target,) = ClassScoreTarget.of(detections[i])
        with small.borrowed(), capture(small.model, small.default_layers) as outputs:
            score = target(small.candidates(inputs))
        (levels,) = outputs.values()
        gradients = torch.autograd.grad(score, list(levels.values()), allow_unused=True)
        on_image = []
        for level, gradient in zip(levels.values(), gradients):
            if gradient is None:
                continue
            cells = torch.zeros(level.shape[2:])
            strengths, features = gradient[0].tolist(), level[0].tolist()
            for row in range(level.shape[2]):
                for column in range(level.shape[3]):
                    total = sum(max(g[row][column], 0) * a[row][column] for g, a in zip(strengths, features))
                    cells[row, column] = max(total, 0)
            on_image.append(inputs.geometries[0].map_to_image(cells).numpy())
        strongest = max(float(level_map.max()) for level_map in on_image)
        joined = [level_map * strongest / level_map.max() for level_map in on_image if level_map.max() > 0]
        expected = np.maximum.reduce(joined)
        assert explanation.values == pytest.approx(expected, abs=1e-4 * strongest)


def test_values_are_in_the_units_of_the_score(small: Any) -> None:
    """A question of which twice is asked for is answered by twice the map; no map is divided by its largest value."""
    found = small.detect(photo(), 0.2)[:1]

    def twice(box: Any, label: int) -> Any:
        target = ClassScoreTarget(box, label)
        return lambda output: 2 * target(output)

    once, doubled = (LayerCAM(target=target)(small, photo(), found)[0] for target in (ClassScoreTarget, twice))
    assert once.values.max() > 0
    np.testing.assert_allclose(doubled.values, 2 * once.values, rtol=1e-4, atol=1e-7)


def test_of_no_boxes_is_nothing_and_leaves_the_model_alone(small: Any) -> None:
    before = {name: value.clone() for name, value in small.model.state_dict().items()}
    assert LayerCAM()(small, photo(), detxai.Detections([], [], [])) == []
    LayerCAM()(small, photo(), small.detect(photo(), 0.2)[:1])
    assert all(torch.equal(before[name], value) for name, value in small.model.state_dict().items())
    assert all(p.grad is None for p in small.model.parameters())
    assert not any(module._forward_hooks for module in small.model.modules())


def test_agrees_with_grad_cams_on_one_level() -> None:
    """Cell by cell: grad-cam then enlarges as if a feature lay in the middle of its cell."""
    from pytorch_grad_cam import LayerCAM as Peer

    detector = detxai.wrap(small_faster_rcnn(n_levels=1, pooled=1))
    image = photo(2)
    found = detector.detect(image, 0)[:1]
    view = GradCamView(detector, image)
    with Peer(view, view.target_layers) as peer:
        peer(view.input_tensor, targets=ClassScoreTarget.of(found))
        (features,), (gradients,) = peer.activations_and_grads.activations, peer.activations_and_grads.gradients
        cells = peer.get_cam_image(view.input_tensor, None, None, features.numpy(), gradients.numpy(), False)[0]
    (ours,) = LayerCAM()(detector, image, found)
    expected = detector.prepare(image).geometries[0].map_to_image(torch.from_numpy(cells).clamp(min=0))
    np.testing.assert_allclose(ours.values / ours.values.max(), expected / expected.max(), atol=1e-5)


def test_a_map_lies_where_its_own_box_is_where_ablation_cam_lights_up_both() -> None:
    """Two objects of a trained detector's scene: each map's peak in its own box."""
    detector = detxai.wrap(load_frcnn())
    inside = []
    for seed in range(4):
        image = generate(seed, "local").image
        found = detector.detect(image, 0.5)
        for explanation, detection in zip(LayerCAM()(detector, image, found), found):
            x1, y1, x2, y2 = (round(v) for v in detection.boxes[0].tolist())
            inside.append(float(explanation.values[y1:y2, x1:x2].sum() / explanation.values.sum()))
    assert np.mean(inside) > 0.8


def test_a_side_of_the_box_can_be_asked_about(small: Any) -> None:
    found = small.detect(photo(), 0.2)[:1]
    maps = [
        LayerCAM(target=partial(detxai.targets.BoxSideTarget, side=side))(small, photo(), found)[0]
        for side in ("left", "bottom")
    ]
    assert all(np.isfinite(map_.values).all() for map_ in maps)
    assert not np.array_equal(maps[0].values, maps[1].values)


def test_bad_targets_are_refused(small: Any) -> None:
    found = small.detect(photo(), 0.2)[:1]
    with pytest.raises(TypeError, match="target must be callable"):
        LayerCAM(target=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target must have gradients"):
        LayerCAM(target=lambda b, c: lambda output: torch.tensor(1.0))(small, photo(), found)
    with pytest.raises(TypeError, match="d_rise needs none"):
        detxai.explain(detxai.wrap(lambda images: []), np.zeros((99, 99, 3), np.uint8), "layer_cam", found)
