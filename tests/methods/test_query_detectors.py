"""What the methods make of query detectors, against plain hooks on the vendor's own model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from plain_hooks import beside
from query_detectors import SeededDetector, d_fine, deformable_detr, detr, lw_detr, photo, rt_detr, yolos
from torch import Tensor
from torchvision.ops import box_iou

import detxai
from detxai.adapters.views.grad_cam import GradCamView
from detxai.targets import ClassScoreTarget

MAKERS: dict[str, Callable[[], SeededDetector]] = {
    "detr": detr,
    "deformable": deformable_detr,
    "rt-detr": rt_detr,
    "lw-detr": lw_detr,
    "yolos": yolos,
}
IMAGE = photo(60, 90)


def wrapped(own: SeededDetector) -> Any:
    return detxai.wrap(own.model, processor=own.processor)


class PlainHook:
    """The vendor's model in float64, with one channel of one layer set to zero by a hook of its own."""

    spans: tuple[tuple[int, int], ...] = ()  # of each level's tokens

    def __init__(self, own: SeededDetector, layer: str) -> None:
        self.model = copy.deepcopy(own.model).double()
        self.module = self.model.get_submodule(layer)
        self.inputs = own.processor(images=IMAGE, return_tensors="pt")
        self.inputs["pixel_values"] = self.inputs["pixel_values"].double()
        self.is_softmax = own.model.config.model_type in ("detr", "yolos")

    def score(self, box: Tensor, label: int, entry: int | None = None, channel: int | None = None) -> float:
        """max IoU * p(label) over all queries; one channel of the module's ``entry``-th map of places ablated."""

        def ablate(module: Any, given: Any, output: Any) -> Any:
            if channel is None:
                return None
            output = copy.deepcopy(output)
            found = output["last_hidden_state"] if isinstance(output, dict) else output
            if isinstance(found, list):  # maps, alone or with their masks
                part = found[entry or 0]
                (part[0] if isinstance(part, tuple) else part)[:, channel] = 0
            elif self.model.config.model_type == "yolos":
                found[:, 1:-10, channel] = 0
            else:
                start, end = self.spans[entry or 0]
                found[:, start:end, channel] = 0
            return output

        hook = self.module.register_forward_hook(ablate)
        with torch.no_grad():
            outputs = self.model(**self.inputs)
        hook.remove()
        height, width = IMAGE.shape[:2]
        centre, sides = outputs.pred_boxes[0].split(2, -1)
        boxes = torch.cat([centre - sides / 2, centre + sides / 2], -1) * torch.tensor([width, height] * 2)
        logits = outputs.logits[0]
        shares = logits.softmax(-1) if self.is_softmax else logits.sigmoid()
        return float((box_iou(box[None].double(), boxes)[0] * shares[:, label]).max())


@pytest.mark.parametrize("name", MAKERS)
def test_every_ablation_is_that_of_a_plain_hook(name: str) -> None:
    own = MAKERS[name]()
    own.model.double()
    detector = wrapped(own)
    found = detector.detect(IMAGE, 0)[:1]
    features = detector.features(IMAGE)
    plain = PlainHook(own, detector.default_layers[0])
    counts = [level.shape[-2] * level.shape[-1] for level in features.levels.values()]
    plain.spans = tuple((sum(counts[:i]), sum(counts[: i + 1])) for i in range(len(counts)))
    explanations = detxai.AblationCAM(progress=False)(detector, IMAGE, found)
    widths = [level.shape[1] for level in features.levels.values()]
    places = [(entry, channel) for entry, width in enumerate(widths) for channel in range(width)]
    chosen = list(range(0, len(places), 11))
    for i, explanation in enumerate(explanations):
        assert explanation.details["tail"]["kind"] == "full"
        assert explanation.channel_effects is not None
        box, label = found.boxes[i], int(found.labels[i])
        clean = plain.score(box, label)
        drops = torch.tensor([clean - plain.score(box, label, *places[place]) for place in chosen], dtype=torch.float64)
        torch.testing.assert_close(explanation.channel_effects[chosen].double(), drops, atol=1e-9, rtol=0)
        assert float(drops.abs().max()) > 1e-6


SETTINGS: dict[str, dict[str, Any]] = {
    "layer_cam": {},
    "eigen_cam": {},
    "d_rise": {"n_masks": 16},
    "pixel_evidence": {"max_passes": 32},
}


@pytest.mark.parametrize("name", ["detr", "rt-detr", "yolos"])
def test_every_method_explains_it(name: str) -> None:
    detector = wrapped(MAKERS[name]())
    found = detector.detect(IMAGE, 0)[:1]
    for method, settings in SETTINGS.items():
        (explanation,) = detxai.explain(detector, IMAGE, method, found, **settings)
        assert explanation.values.shape == IMAGE.shape[:2]
        assert np.isfinite(explanation.values).all()
        if method not in ("d_rise", "pixel_evidence"):  # which may find that nothing speaks for a box of random weights
            assert np.ptp(explanation.values) > 0, method


def test_the_gradient_of_the_scalar_is_the_models_own() -> None:
    own = rt_detr()
    own.model.double()
    detector = wrapped(own)
    found = beside(detector.detect(IMAGE, 0)[:1])
    scalar = detector.scalar(found, IMAGE)
    pixels = scalar.input_tensor.clone().requires_grad_()
    scalar(pixels).sum().backward()
    tensor = own.processor(images=IMAGE, return_tensors="pt")["pixel_values"].double().requires_grad_()
    outputs = own.model(pixel_values=tensor.expand(2, -1, -1, -1))  # of one image alone, torch's gradient is wrong
    centre, sides = outputs.pred_boxes[0].split(2, -1)
    boxes = torch.cat([centre - sides / 2, centre + sides / 2], -1) * torch.tensor([90, 60, 90, 60])
    overlap = box_iou(found.boxes.double(), boxes)[0]
    (overlap * outputs.logits[0, :, int(found.labels[0])].sigmoid()).max().backward()
    assert pixels.grad is not None
    assert tensor.grad is not None
    torch.testing.assert_close(pixels.grad, tensor.grad, atol=1e-9, rtol=1e-6)
    assert float(tensor.grad.abs().max()) > 0


def test_grad_cams_own_methods_explain_tokens() -> None:
    from pytorch_grad_cam import GradCAM

    detector = wrapped(detr())
    found = detector.detect(IMAGE, 0)[:1]
    view = GradCamView(detector, IMAGE)
    with GradCAM(view, view.target_layers) as cam:
        (map_,) = cam(view.input_tensor, targets=ClassScoreTarget.of(found))
    assert view.to_image(map_).shape == IMAGE.shape[:2]


@pytest.mark.parametrize("make", [detr, rt_detr], ids=lambda make: make.__name__)
def test_ablations_in_half_precision_come_near(make: Any) -> None:
    detector = wrapped(make())
    found = detector.detect(IMAGE, 0)[:1]
    chosen: dict[str, Any] = {
        "ratio_channels_to_ablate": 0.05,
        "unablated_weights": "zero",
        "ranking": "energy",
        "progress": False,
    }
    effects: list[Tensor] = []
    for precision in ("full", "bf16"):
        (explanation,) = detxai.AblationCAM(precision=precision, **chosen)(detector, IMAGE, found)
        assert explanation.channel_effects is not None
        effects.append(explanation.channel_effects)
    assert float((effects[0] - effects[1]).nan_to_num().abs().max()) < 0.05


def test_masked_views_are_scored_as_the_vendor_scores_them() -> None:
    """D-RISE hides what the model reads: each view by the vendor's own call."""
    from detxai.engine.masking.canvas import Canvas

    own = d_fine()
    detector = wrapped(own)
    canvas = Canvas.with_fill(detector, IMAGE, "black")
    keep = torch.ones(2, *canvas.size)
    keep[1, :, : canvas.size[1] // 2] = 0
    with torch.no_grad():
        candidates = detector.candidates(canvas.inputs(keep))
        hidden = own.processor(images=IMAGE, return_tensors="pt")["pixel_values"]
        black = own.processor(images=np.zeros_like(IMAGE), return_tensors="pt")["pixel_values"]
        hidden[..., : hidden.shape[-1] // 2] = black[..., : hidden.shape[-1] // 2]
        logits = own.model(pixel_values=hidden).logits
    torch.testing.assert_close(candidates.class_scores[1], logits[0].sigmoid(), atol=1e-5, rtol=0)
