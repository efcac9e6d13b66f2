"""Every part of a detector through eight changes: right, by a plain hook on that model, or refused in a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from plain_hooks import OneStage, TwoStages, beside, dropped, layer_cam
from plain_one_stages import AnchorCase, narrow_fcos
from torch import Tensor, nn
from torch.nn.utils import parametrize

from detxai import AblationCAM, LayerCAM
from detxai.adapters.detector import Detector

# -- eight changes ---------------------------------------------------------------------------------------------------


def shrunk(value: Any) -> Any:
    """Whatever a part puts out or is given, its numbers a little smaller."""
    if isinstance(value, Tensor):
        return value * 0.9 if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return type(value)((key, shrunk(item)) for key, item in value.items())  # type: ignore[call-arg]
    return type(value)(map(shrunk, value)) if isinstance(value, (list, tuple)) else value


class Wrapper(nn.Module):
    """Around any part; a layer of a YOLO also says where it stands."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        for name in {"f", "i", "type", "np"} & set(vars(inner)):
            setattr(self, name, getattr(inner, name))

    def forward(self, *given: Any, **named: Any) -> Any:
        return shrunk(self.inner(*given, **named))


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class AdaptedLinear(nn.Linear):
    """As LoRA does: the weight it shows is not the weight it uses."""

    def forward(self, given: Tensor) -> Tensor:
        return nn.functional.linear(given, self.weight + 0.3 * self.weight.flip(0), self.bias)


class AdaptedConv2d(nn.Conv2d):
    def forward(self, given: Tensor) -> Tensor:
        return self._conv_forward(given, self.weight + 0.3 * self.weight.flip(0), self.bias)


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def weighted(model: nn.Module, name: str) -> nn.Module:
    """The first convolution or linear layer in a part, or the part itself."""
    return next(m for m in model.get_submodule(name).modules() if isinstance(m, (nn.Linear, nn.Conv2d)))


def patch(model: nn.Module, name: str) -> None:
    part: Any = model.get_submodule(name)
    own = part.forward
    part.forward = lambda *given, **named: shrunk(own(*given, **named))


def subclass(model: nn.Module, name: str) -> None:
    part = model.get_submodule(name)
    kind: Any = type(part)
    part.__class__ = type("Own", (kind,), {"forward": lambda self, *given: shrunk(kind.forward(self, *given))})


def hook(model: nn.Module, name: str) -> None:
    model.get_submodule(name).register_forward_hook(lambda module, given, output: shrunk(output))


def pre_hook(model: nn.Module, name: str) -> None:
    model.get_submodule(name).register_forward_pre_hook(lambda module, given: shrunk(given))


def wrapper(model: nn.Module, name: str) -> None:
    put(model, name, Wrapper(model.get_submodule(name)))


def parametrization(model: nn.Module, name: str) -> None:
    parametrize.register_parametrization(weighted(model, name), "weight", Halved())


def adapter(model: nn.Module, name: str) -> None:
    layer = weighted(model, name)
    layer.__class__ = AdaptedLinear if isinstance(layer, nn.Linear) else AdaptedConv2d


def compiled(model: nn.Module, name: str) -> None:
    put(model, name, torch.compile(model.get_submodule(name), backend="eager"))  # type: ignore[arg-type]


CHANGES = (patch, subclass, hook, pre_hook, wrapper, parametrization, adapter, compiled)


@pytest.fixture(autouse=True, scope="module")
def compiled_parts_run_as_they_are() -> Iterator[None]:
    """Tracing takes seconds for each of them, and changes no number."""
    with torch.compiler.set_stance("force_eager"):
        yield


# -- the table -------------------------------------------------------------------------------------------------------

TWO_STAGE_PARTS = (
    "backbone",
    "rpn",
    "rpn.head",
    "rpn.head.conv",
    "rpn.head.cls_logits",
    "rpn.head.bbox_pred",
    "roi_heads",
    "roi_heads.box_head",
    "roi_heads.box_head.fc6",
    "roi_heads.box_head.fc7",
    "roi_heads.box_predictor",
    "roi_heads.box_predictor.cls_score",
)
ONE_STAGE_PARTS = (
    "model.0",
    "model.1",
    "model.0.conv",
    "model.3",
    "model.3.cv2.0",
    "model.3.cv2.0.0",
    "model.3.cv2.1.1.conv",
    "model.3.cv3.0.2",
    "model.3.dfl",
)


def holds(case: TwoStages | OneStage, detector: Detector) -> None:
    """Detections, candidates and maps of one image are those of the model itself."""
    with torch.no_grad():
        clean = case.answer({})
    found = detector.detect(case.image, 0.02)
    assert len(found) == len(clean.boxes) >= 2
    torch.testing.assert_close(found.boxes, clean.boxes.float(), atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(found.scores, clean.scores.float(), atol=1e-5, rtol=1e-5)
    assert torch.equal(found.labels, clean.labels)
    with torch.no_grad():
        candidates = detector.candidates(case.image)
    for i in range(len(found)):
        column = int(found.labels[i]) - clean.first_label
        boxes = candidates.boxes[0, :, min(column, candidates.boxes.shape[2] - 1)]
        apart = (boxes - found.boxes[i]).abs().amax(1) + (candidates.class_scores[0, :, column] - found.scores[i]).abs()
        assert float(apart.min()) < 1e-3
    found = found[[0, len(found) - 1]]  # of a YOLO, answered by different levels
    drops = dropped(case, clean, found)
    whole = AblationCAM(progress=False)(detector, case.image, found)
    part = AblationCAM(ratio_channels_to_ablate=0.1, progress=False)(detector, case.image, found)
    for i, (all_of_them, some) in enumerate(zip(whole, part, strict=True)):
        torch.testing.assert_close(all_of_them.channel_effects, drops[i], atol=1e-9, rtol=0)
        assert some.channel_effects is not None
        done = ~some.channel_effects.isnan()
        assert int(done.sum()) == math.ceil(0.1 * drops.shape[1])
        torch.testing.assert_close(some.channel_effects[done], drops[i, done], atol=1e-9, rtol=0)
        if all_of_them.details["tail"]["kind"] == "full":
            np.testing.assert_allclose(some.values, all_of_them.values, atol=1e-6)
    found = beside(found)
    for i, explanation in enumerate(LayerCAM()(detector, case.image, found)):
        expected = layer_cam(case, found.boxes[i].double(), int(found.labels[i]), detector)
        np.testing.assert_allclose(explanation.values, expected, atol=1e-5 * expected.max())


def holds_or_is_refused(case: TwoStages | OneStage, refused: bool) -> None:
    if not refused:
        holds(case, case.wrap(case.model))
        return
    with pytest.raises((TypeError, ValueError)) as refusal:
        holds(case, case.wrap(case.model))
    said = str(refusal.value)
    assert said.startswith("model")
    assert "\n" not in said


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("part", TWO_STAGE_PARTS)
def test_a_changed_faster_rcnn(part: str, change: Callable[[nn.Module, str], None]) -> None:
    case = TwoStages()
    change(case.model, part)
    holds_or_is_refused(case, refused=(part, change) in REFUSED)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("part", ONE_STAGE_PARTS)
def test_a_changed_yolo(part: str, change: Callable[[nn.Module, str], None]) -> None:
    case = OneStage()
    change(case.model, part)
    holds_or_is_refused(case, refused=(part, change) in REFUSED)


ANCHOR_CASES: dict[str, Callable[[], AnchorCase]] = {
    "retinanet": lambda: AnchorCase("narrow retinanet"),
    "fcos": narrow_fcos,
    "ssdlite": lambda: AnchorCase("narrow ssdlite"),
}
LAST_CLASSES = {"retinanet": "cls_logits", "fcos": "cls_logits", "ssdlite": "module_list.0.1"}


@pytest.mark.parametrize("change", [subclass, hook, wrapper, adapter], ids=lambda change: change.__name__)
@pytest.mark.parametrize("part", ["backbone", "head", "head.regression_head", "last classes"])
@pytest.mark.parametrize("name", ANCHOR_CASES)
def test_a_changed_torchvision_one_stage(name: str, part: str, change: Callable[[nn.Module, str], None]) -> None:
    case: Any = ANCHOR_CASES[name]()
    change(case.model, f"head.classification_head.{LAST_CLASSES[name]}" if part == "last classes" else part)
    holds(case, case.wrap(case.model))


# what is made of the heads' output is somebody else's code: nobody knows the candidates behind it
REFUSED: set[tuple[str, Any]] = {
    *(("roi_heads", change) for change in (patch, subclass, hook, pre_hook, wrapper)),
    *(("model.3", change) for change in (subclass, wrapper, compiled)),
}


@pytest.mark.parametrize(("kind", "part"), [(TwoStages, "rpn.head.conv"), (OneStage, "model.3.cv3.0.1")])
def test_a_part_that_mixes_the_images_of_a_batch(kind: Any, part: str) -> None:
    """One ablation stands beside no other in a pass of the model itself."""
    case = kind()
    case.model.get_submodule(part).register_forward_hook(lambda module, given, output: output / output.std())
    holds(case, case.wrap(case.model))


@pytest.mark.parametrize(("kind", "part"), [(TwoStages, "roi_heads.box_head.fc6"), (OneStage, "model.3.cv3.0.2")])
def test_a_compiled_layer_that_is_traced(kind: Any, part: str) -> None:
    case = kind()
    compiled(case.model, part)
    with torch.compiler.set_stance("default"):
        holds(case, case.wrap(case.model))
