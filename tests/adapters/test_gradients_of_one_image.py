"""The gradient of one image is the one it has in a batch: torch's batch norm on a CPU gets it wrong by itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import detxai
from detxai.adapters.layers import right_batch_norm_gradients
from detxai.targets import ClassScoreTarget, score_targets

query_detectors = pytest.importorskip("query_detectors", exc_type=ImportError)
yolo_seeded = pytest.importorskip("yolo_seeded", exc_type=ImportError)


def gradients(detector: Any, image: Any, copies: int) -> Tensor:
    """Of the three likeliest candidates' scores, by the pixels of the first of some copies of an image."""
    inputs = detector.prepare(image)
    pixels = inputs.tensor.expand(copies, -1, -1, -1).clone().requires_grad_()
    with detector.borrowed(), torch.enable_grad():
        found = detector.candidates(inputs.with_tensor(pixels))
        label = int(found.class_scores[0].amax(0).argmax())
        places = found.class_scores[0, :, label].topk(3).indices
        boxes = found.boxes[0, places, label if found.boxes.shape[2] > 1 else 0].detach() + 1.0  # off the IoU's kink
        asked = [ClassScoreTarget(box, int(found.labels[label])) for box in boxes.cpu()]
        (gradient,) = torch.autograd.grad(score_targets(asked, found)[:, 0].sum(), pixels)
    return gradient[0]


def assert_as_in_a_batch(detector: Any, image: Any) -> None:
    alone, beside = gradients(detector, image, 1), gradients(detector, image, 2)
    assert beside.abs().max() > 0
    assert (alone - beside).abs().max() <= 1e-4 * beside.abs().max()


@pytest.mark.parametrize("family", query_detectors.FAMILIES)
def test_a_query_detector(family: str) -> None:
    own = query_detectors.FAMILIES[family]()
    model = own.model if family == "dab detr" else own.model.double()  # that one makes some tensors in single precision
    assert_as_in_a_batch(detxai.wrap(model, processor=own.processor), query_detectors.photo(96, 128))


@pytest.mark.parametrize("family", ["v8", "rt-detr"])
def test_a_model_of_ultralytics(family: str) -> None:
    model = copy.deepcopy(yolo_seeded.seeded(family).model).double()
    assert_as_in_a_batch(detxai.wrap(model, input_size=yolo_seeded.SIZE), yolo_seeded.bus())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), nn.InstanceNorm2d(8), nn.BatchNorm2d(8).eval()])
def test_a_norm_whose_output_becomes_tokens(norm: nn.Module) -> None:
    """Against the same gradient given as one block of memory."""
    generator = torch.Generator().manual_seed(0)
    wanted, tokens = (torch.randn(1, 20, 8, generator=generator, dtype=torch.double) for _ in range(2))
    image = tokens.transpose(1, 2).reshape(1, 8, 4, 5).contiguous()
    first, second = image.clone().requires_grad_(), image.clone().requires_grad_()
    with right_batch_norm_gradients(norm.double()):
        (norm(first).flatten(2).transpose(1, 2) * wanted).sum().backward()
    norm(second).backward(wanted.transpose(1, 2).reshape(1, 8, 4, 5).contiguous())
    assert first.grad is not None
    assert second.grad is not None
    assert torch.allclose(first.grad, second.grad, atol=1e-12)
    assert not norm._forward_hooks
