"""The scalar of a box is its score, its gradient is the score's own, and the user's model is no part of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from plain_hooks import OneStage, TwoStages, beside
from relu_detectors import held, own_score, with_relus
from torch import nn

import detxai
from detxai.targets import BoxSideTarget, ClassScoreTarget

CASES = {"faster_rcnn": TwoStages, "yolo": OneStage}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Any:
    return CASES[request.param]()


@pytest.fixture(scope="module")
def detector(case: Any) -> Any:
    return case.wrap(case.model)


def test_is_the_score_that_the_models_own_call_gives(case: Any, detector: Any) -> None:
    found = detector.detect(case.image, 0.02)
    for i in range(2):
        scalar = detector.scalar(found[i], case.image)
        assert scalar(scalar.input_tensor.expand(3, -1, -1, -1)).shape == (3,)
        own = own_score(case, case.image, found.boxes[i], int(found.labels[i]))
        assert float(scalar(scalar.input_tensor)[0].detach()) == pytest.approx(own, abs=1e-9)


def test_gradients_are_the_finite_differences_of_the_models_own_score(case: Any, detector: Any) -> None:
    """In float64, along random directions; a two-stage model's proposals are held, which torchvision detaches."""
    found = beside(detector.detect(case.image, 0.02))
    generator = torch.Generator().manual_seed(0)
    height, width = case.image.shape[1:]
    for i in range(2):
        scalar = detector.scalar(found[i], case.image)
        shown = scalar.input_tensor.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(scalar(shown).sum(), shown)
        inside = gradient[0, :, :height, :width]
        if isinstance(case, TwoStages):  # the model divides what it is given by this
            inside = inside / torch.tensor(case.model.transform.image_std)[:, None, None]
        with held(case):
            for _ in range(4):
                way = torch.randn(case.image.shape, generator=generator, dtype=torch.float64)
                up, down = (
                    own_score(case, case.image + step * way, found.boxes[i], int(found.labels[i]))
                    for step in (1e-6, -1e-6)
                )
                assert float((inside * way).sum()) == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-9)


def test_integrated_gradients_add_up_where_proposals_are_held(case: Any, detector: Any) -> None:
    captum = pytest.importorskip("captum.attr")
    found = detector.detect(case.image, 0.02)[:1]
    scalar = detector.scalar(found, case.image, hold_proposals=True)
    black = detector.prepare(torch.zeros_like(case.image)).tensor
    sums = captum.IntegratedGradients(scalar).attribute(scalar.input_tensor, black, n_steps=256, internal_batch_size=32)
    with torch.no_grad():
        difference = float(scalar(scalar.input_tensor)[0] - scalar(black)[0])
    assert float(sums.sum()) == pytest.approx(difference, rel=0.01)


def test_other_questions_may_be_asked(case: Any, detector: Any) -> None:
    found = detector.detect(case.image, 0.02)[:1]
    scalar = detector.scalar(found, case.image, BoxSideTarget)
    left = float(scalar(scalar.input_tensor)[0].detach())
    assert left == pytest.approx(float(BoxSideTarget.of(found)[0](detector.candidates(case.image)).detach()))


def test_prepared_inputs_serve_as_well_as_the_image(case: Any, detector: Any) -> None:
    found, inputs = detector.detect(case.image, 0.02)[:1], detector.prepare(case.image)
    scalar = detector.scalar(found, inputs)
    assert scalar.input_tensor is inputs.tensor


def test_the_users_model_is_no_part_of_it() -> None:
    model = small_faster_rcnn().train()
    weight = next(model.parameters())
    weight.grad = torch.ones_like(weight)
    detector = detxai.wrap(model)
    scalar = detector.scalar(detector.detect(photo(), 0.02)[:1], photo())
    assert not list(scalar.parameters())
    assert len(list(scalar.modules())) == 1
    scalar.eval().zero_grad()
    assert model.training
    with scalar.hookable() as module:
        module.eval().zero_grad()
    assert weight.grad is not None
    assert float(weight.grad.sum()) == weight.numel()
    assert model.training


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_hooks_placed_on_the_lent_model_are_taken_off(error: type[BaseException] | None) -> None:
    model: Any = with_relus(small_faster_rcnn())
    kept = model.backbone.register_forward_hook(lambda *_: None)
    detector = detxai.wrap(model)
    scalar = detector.scalar(detector.detect(photo(), 0.02)[:1], photo())
    ran: list[str] = []

    def use() -> None:
        with scalar.hookable() as module:
            for part in module.modules():
                if isinstance(part, nn.ReLU):
                    part.register_forward_hook(lambda *_: ran.append("relu"))
                    part.note = 1  # type: ignore[assignment]
            module(scalar.input_tensor)
            if error is not None:
                raise error

    if error is None:
        use()
    else:
        with pytest.raises(error):
            use()
    assert ran
    hooks = [hook for part in model.modules() for hook in (*part._forward_hooks, *part._forward_pre_hooks)]
    assert hooks == [kept.id]
    assert not any(hasattr(part, "note") for part in model.modules())


def test_another_images_tensor_is_refused(detector: Any, case: Any) -> None:
    scalar = detector.scalar(detector.detect(case.image, 0.02)[:1], case.image)
    with pytest.raises(ValueError, match="another image needs a scalar of its own"):
        scalar(torch.zeros(1, 3, 32, 96, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"tensor must be torch\.float64 on cpu"):
        scalar(scalar.input_tensor.float())
    with pytest.raises(TypeError, match="tensor must be a tensor"):
        scalar(np.zeros((1, 3, 64, 64)))


def test_bad_questions_are_refused(detector: Any, case: Any) -> None:
    found = detector.detect(case.image, 0.02)
    with pytest.raises(ValueError, match="detection must be one box"):
        detector.scalar(found[:2], case.image)
    with pytest.raises(TypeError, match="detection must be"):
        detector.scalar(3, case.image)
    with pytest.raises(TypeError, match="target must be callable"):
        detector.scalar(found[0], case.image, 3)
    with pytest.raises(ValueError, match="must be one image"):
        detector.scalar(found[0], [case.image, case.image])
    with pytest.raises(ValueError, match="must lie in the image"):
        detector.scalar(detxai.Detections([[900, 900, 950, 950]], [0.5], [1]), case.image)
    black_box: Any = detxai.wrap(lambda images: [])
    with pytest.raises(TypeError, match="no gradients"):
        black_box.scalar(found[0], case.image, ClassScoreTarget)
