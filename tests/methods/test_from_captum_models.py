"""Captum's methods leave the model alone, hold no more memory with more steps, and refuse what they would do wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from plain_hooks import OneStage, TwoStages
from relu_detectors import with_relus
from test_from_captum import GRADIENTS, SMALL
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import detxai
from detxai.methods import METHODS
from detxai.methods.from_captum import CAPTUM_METHODS
from detxai.scenes import generate
from detxai.targets import ClassScoreTarget

captum = pytest.importorskip("captum.attr")


class Snapshot:
    """All of a model, and of the random states, that a caller could miss."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.state = {name: value.clone() for name, value in model.state_dict().items()}
        self.gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        self.flags = self.now()
        self.torch_random, self.numpy_random = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]

    def now(self) -> Any:
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return (
            [module.training for module in self.model.modules()],
            [p.requires_grad for p in self.model.parameters()],
            [list(getattr(module, kind)) for module in self.model.modules() for kind in hooks],
            [sorted(vars(module)) for module in self.model.modules()],
        )

    def check(self) -> None:
        assert self.now() == self.flags
        assert all(torch.equal(value, self.state[name]) for name, value in self.model.state_dict().items())
        for p, before in zip(self.model.parameters(), self.gradients, strict=True):
            assert (p.grad is None) == (before is None)
            assert before is None or torch.equal(p.grad, before)  # type: ignore[arg-type]
        assert torch.equal(torch.get_rng_state(), self.torch_random)
        np.testing.assert_array_equal(np.random.get_state()[1], self.numpy_random)  # type: ignore[index]


def interrupted(error: type[BaseException], after: int) -> Callable[[Any, int], Any]:
    """A question that raises once it has been asked so often."""
    asked: list[int] = []

    def question(box: Any, label: int) -> Any:
        target = ClassScoreTarget(box, label)

        def answer(output: Any) -> Tensor:
            asked.append(1)
            if len(asked) > after:
                raise error
            return target(output)

        return answer

    return question


@pytest.fixture(scope="module")
def in_training() -> Any:
    """In training mode, with gradients of its owner's and a hook of its owner's."""
    model: Any = with_relus(TwoStages().model).train()
    model.backbone.register_forward_hook(lambda *_: None)
    for p in list(model.parameters())[:2]:
        p.grad = torch.ones_like(p)
        p.requires_grad_(False)
    return detxai.wrap(model)


# answers before the error: those of the passes that look for activations, so that it comes where Captum has its hooks
AFTER = {"guided_backprop": 1, "deconvolution": 1, "deep_lift": 4, "integrated_gradients": 9, "kernel_shap": 9}


@pytest.mark.parametrize("name", [kind.name for kind in CAPTUM_METHODS])
def test_the_model_comes_back_after_success_failure_and_interruption(in_training: Any, name: str) -> None:
    image = TwoStages.image
    found = in_training.detect(image, 0.02)[:1]
    before = Snapshot(in_training.model)
    METHODS[name](**SMALL.get(name, {}))(in_training, image, found)
    before.check()
    for error in (RuntimeError, KeyboardInterrupt):
        question = interrupted(error, after=AFTER.get(name, 0))
        with pytest.raises(error):
            METHODS[name](**SMALL.get(name, {}), target=question)(in_training, image, found)
        before.check()


class LargestTensor(TorchDispatchMode):
    """The most numbers that any tensor made inside has."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            self.n = max(self.n, one.numel() if isinstance(one, Tensor) else 0)
        return made


@pytest.mark.parametrize(
    ("name", "few", "many"),
    [
        ("integrated_gradients", {"steps": 8}, {"steps": 24}),
        ("smooth_grad", {"n_samples": 8}, {"n_samples": 24}),
        ("gradient_shap", {"n_samples": 8}, {"n_samples": 24}),
        ("occlusion", {"window": 16}, {"window": 16, "stride": 4}),
        ("kernel_shap", {"n_samples": 64}, {"n_samples": 100}),
        ("shapley_sampling", {"n_orders": 2}, {"n_orders": 5}),
    ],
)
def test_no_tensor_grows_with_steps_or_samples(name: str, few: dict[str, Any], many: dict[str, Any]) -> None:
    case = OneStage()
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)[:1]
    largest = []
    for settings in (few, many):
        with LargestTensor() as made:
            METHODS[name](**{**SMALL[name], **settings})(detector, case.image, found)
        largest.append(made.n)
    assert largest[1] <= largest[0]


@pytest.mark.parametrize("name", ["saliency", "integrated_gradients", "smooth_grad", "occlusion", "shapley_sampling"])
def test_no_tensor_grows_with_boxes_but_the_maps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detxai.methods.from_captum.joint_gradients.MAPS_AT_ONCE", 8)
    case = OneStage()
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.001)
    few, many = 8, 12
    largest = []
    for n in (few, many):
        with LargestTensor() as made:
            METHODS[name](**SMALL.get(name, {}))(detector, case.image, found[:n])
        largest.append(made.n)
    maps = many * detector.prepare(case.image).tensor[0, 0].numel()
    assert largest[1] <= max(largest[0], maps)


@pytest.mark.parametrize("name", ["integrated_gradients", "gradient_shap", "occlusion", "kernel_shap"])
def test_running_out_of_memory_goes_on_with_fewer_at_once(name: str) -> None:
    case = OneStage()
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)[:2]
    expected = METHODS[name](**SMALL[name])(detector, case.image, found)
    seen: list[int] = []

    def small_memory(module: nn.Module, given: Any) -> None:
        if len(given[0]) > 3:
            raise torch.OutOfMemoryError("out of memory")
        seen.append(len(given[0]))

    handle = case.model.model[0].register_forward_pre_hook(small_memory)
    explanations = METHODS[name](**SMALL[name])(detector, case.image, found)
    handle.remove()
    assert 1 < max(seen) <= 3
    for one, before in zip(explanations, expected, strict=True):
        np.testing.assert_allclose(one.values, before.values, atol=1e-6 * np.abs(before.values).max())


@pytest.mark.parametrize("name", ["guided_backprop", "deconvolution", "deep_lift"])
def test_networks_without_the_activations_in_question_are_refused(name: str) -> None:
    case = OneStage()
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)[:1]
    with pytest.raises(ValueError, match="SiLU"):
        METHODS[name]()(detector, case.image, found)
    scenes, image = detxai.wrap("scenes-frcnn"), generate(0, "local").image
    with pytest.raises(ValueError, match="20 of the 21 that run in FasterRCNN are called as functions"):
        METHODS[name]()(scenes, image, scenes.detect(image)[:1])


def test_deep_lift_refuses_a_module_that_runs_twice() -> None:
    model: Any = small_faster_rcnn()
    shared = nn.ReLU()
    for block in model.backbone.blocks:
        block[2] = shared
    detector = detxai.wrap(model)
    with pytest.raises(ValueError, match=r"backbone.blocks.0.2 \(ReLU\) runs \d times in one pass"):
        METHODS["deep_lift"]()(detector, photo(), detector.detect(photo(), 0.02)[:1])


def test_deep_lift_refuses_a_module_that_captum_would_pass_over() -> None:
    model: Any = with_relus(OneStage().model)
    model.model[1].act.inplace = False
    model.model[1].act.register_full_backward_hook(lambda *_: None)
    detector = OneStage().wrap(model)
    found = detector.detect(OneStage.image, 0.02)[:1]
    with pytest.raises(ValueError, match=r"model.1.act \(ReLU\) has a backward hook"):
        METHODS["deep_lift"]()(detector, OneStage.image, found)


def test_guided_backprop_counts_what_captum_leaves_alone(in_training: Any) -> None:
    found = in_training.detect(TwoStages.image, 0.02)[:1]
    (explanation,) = METHODS["guided_backprop"]()(in_training, TwoStages.image, found)
    assert explanation.details == {"relu_modules": 2, "relu_functions": 2}  # two levels; two in torchvision's box head


def test_a_hook_of_the_users_is_followed() -> None:
    """Whoever turns a channel off by a hook is explained what is left."""
    case = OneStage()
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)[:1]
    (before,) = METHODS["saliency"]()(detector, case.image, found)
    handle = case.model.model[0].register_forward_hook(lambda module, given, output: output * 0.5)
    (after,) = METHODS["saliency"]()(detector, case.image, found)
    handle.remove()
    assert not np.allclose(before.values, after.values)


def test_the_front_door_takes_them_by_name() -> None:
    """By settings as a command line gives them, and with detections of its own, which share a pass."""
    detector = detxai.wrap(small_faster_rcnn())
    found = detector.detect(photo(), 0.455)
    explanations = detxai.explain(
        detector, photo(), "integrated_gradients", score_threshold=0.455, steps=2, baseline="mean"
    )
    assert len(explanations) == len(found) > 0
    given = METHODS["integrated_gradients"](steps=2, baseline="mean")(detector, photo(), found)
    for one, other in zip(explanations, given, strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-5 * np.abs(other.values).max())
    with pytest.raises(TypeError, match="steps must be a whole number"):
        detxai.explain(detector, photo(), "integrated_gradients", steps="many")


@pytest.mark.parametrize("name", GRADIENTS)
def test_black_boxes_have_no_gradients(name: str) -> None:
    found = detxai.Detections([[1, 1, 9, 9]], [0.5], [0])
    with pytest.raises(TypeError, match="d_rise needs none"):
        METHODS[name]()(detxai.wrap(lambda images: []), np.zeros((20, 20, 3), np.uint8), found)
