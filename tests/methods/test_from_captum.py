"""Captum's methods on boxes are Captum's own calls on the scalar, done by hand; what boxes can share, they share."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from plain_hooks import OneStage, TwoStages
from relu_detectors import images_seen, with_relus
from torch import Tensor
from tqdm.auto import tqdm

import detxai
from detxai.engine.masking.canvas import filling_image
from detxai.methods import METHODS
from detxai.methods.from_captum import CAPTUM_METHODS, IntegratedGradients, SmoothGrad
from detxai.methods.from_captum.image_regions import grid_cells

captum = pytest.importorskip("captum.attr")
attr: Any = captum

GRADIENTS = [kind.name for kind in CAPTUM_METHODS if kind.needs == "gradients"]
GRID: dict[str, Any] = {"regions": "grid", "n_regions": 12}
SMALL: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 12},
    "smooth_grad": {"n_samples": 6},
    "gradient_shap": {"n_samples": 6},
    "occlusion": {"window": 16},
    "feature_ablation": GRID,
    "lime": {**GRID, "n_samples": 40, "alpha": 1e-5},
    "kernel_shap": {**GRID, "n_samples": 40},
    "shapley_sampling": {**GRID, "n_orders": 2},
}


class Case:
    """A tiny detector with ReLU modules, an image of the size that it reads, and some boxes."""

    def __init__(self, kind: Any) -> None:
        own: Any = kind()
        with_relus(own.model)
        self.image: Tensor = own.image
        self.detector = own.wrap(own.model)
        self.found = self.detector.detect(self.image, 0.02)[:3]
        self.black = self.detector.prepare(torch.zeros_like(self.image)).tensor

    def scalar(self, i: int, *, hold: bool) -> Any:
        return self.detector.scalar(self.found[i], self.image, hold_proposals=hold)

    def explain(self, name: str, **settings: Any) -> Any:
        return METHODS[name](**{**SMALL.get(name, {}), **settings})(self.detector, self.image, self.found)


@pytest.fixture(scope="module", params=[TwoStages, OneStage], ids=["faster_rcnn", "yolo"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def by_hand(name: str, case: Case, i: int) -> Tensor:
    """(h, w) over the model's input: Captum's own call on the scalar of box i, and the colours combined."""
    scalar = case.scalar(i, hold=True)
    image, stdev = scalar.input_tensor.clone(), float(scalar.input_tensor.max() - scalar.input_tensor.min())
    torch.manual_seed(0)
    np.random.seed(0)
    if name == "saliency":
        return attr.Saliency(scalar).attribute(image)[0].amax(0)
    if name == "input_x_gradient":
        return attr.InputXGradient(scalar).attribute(image)[0].sum(0)
    if name == "integrated_gradients":
        return attr.IntegratedGradients(scalar).attribute(image, case.black, n_steps=12)[0].sum(0)
    if name == "smooth_grad":
        tunnel = attr.NoiseTunnel(attr.Saliency(scalar))
        return tunnel.attribute(image, nt_samples=6, stdevs=0.1 * stdev, abs=False)[0].abs().amax(0)
    if name == "gradient_shap":
        fills = [case.black] + [
            case.detector.prepare(filling_image(uint8(case), fill)).tensor for fill in ("mean", "blur")
        ]
        method = attr.GradientShap(scalar)
        return method.attribute(image, torch.cat(fills), n_samples=6, stdevs=0.05 * stdev)[0].sum(0)
    if name == "deep_lift":
        with scalar.hookable() as module:
            return attr.DeepLift(module).attribute(image, case.black).detach()[0].sum(0)
    with scalar.hookable() as module:
        kind = {"guided_backprop": attr.GuidedBackprop, "deconvolution": attr.Deconvolution}[name]
        return kind(module).attribute(image)[0].abs().amax(0)


def uint8(case: Case) -> Any:
    return (case.image.permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gradient_methods_are_captums_own_call_for_each_box(case: Case, name: str) -> None:
    explanations = case.explain(name)
    height, width = case.image.shape[1:]
    for i in (0, 2):
        expected = by_hand(name, case, i)[:height, :width].detach().float().numpy()
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(explanations[i].values, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def masked(case: Case, scalar: Any, keep: Tensor) -> Tensor:
    """The scalar where only ``keep`` (B, h, w) of the image is shown, on black."""
    height, width = case.image.shape[1:]
    shown = case.black.expand(len(keep), -1, -1, -1).clone()
    inside = scalar.input_tensor[:, :, :height, :width]
    black = case.black[:, :, :height, :width]
    shown[:, :, :height, :width] = keep[:, None].double() * inside + (1 - keep[:, None].double()) * black
    with torch.no_grad():
        return scalar(shown)


@pytest.mark.parametrize("name", ["feature_ablation", "shapley_sampling", "kernel_shap", "lime"])
def test_region_methods_are_captums_own_call_for_each_box(case: Case, name: str) -> None:
    from captum._utils.models.linear_model import SkLearnLasso
    from captum.attr._core.lime import get_exp_kernel_similarity_function

    labels = grid_cells((case.image.shape[1], case.image.shape[2]), 12)
    n = int(labels.max()) + 1
    explanations = case.explain(name)
    for i in (0, 2):
        scalar = case.scalar(i, hold=False)

        def score(shown: Tensor, scalar: Any = scalar) -> Tensor:
            return masked(case, scalar, shown[:, labels])

        torch.manual_seed(0)
        everything = torch.ones(1, n)
        if name == "feature_ablation":
            effects = attr.FeatureAblation(score).attribute(everything, perturbations_per_eval=8)
        elif name == "shapley_sampling":
            effects = attr.ShapleyValueSampling(score).attribute(everything, n_samples=2, perturbations_per_eval=8)
        elif name == "kernel_shap":
            effects = attr.KernelShap(score).attribute(everything, n_samples=40, perturbations_per_eval=8)
        else:
            weight = get_exp_kernel_similarity_function("cosine", 0.25)
            lime = attr.Lime(score, interpretable_model=SkLearnLasso(alpha=1e-5), similarity_func=weight)
            effects = lime.attribute(everything, n_samples=40, perturbations_per_eval=8)
        expected = effects.reshape(-1).double().numpy()
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(explanations[i].details["effects"], expected, atol=1e-5 * np.abs(expected).max())
        area = np.bincount(labels.flatten().numpy())
        spread = (explanations[i].details["effects"] / area)[labels.numpy()]
        np.testing.assert_allclose(explanations[i].values, spread, rtol=1e-5, atol=1e-9)


def test_occlusion_is_captums_own_call_on_pixels(case: Case) -> None:
    height, width = case.image.shape[1:]
    for settings, window, stride in (
        ({"window": 16}, (16, 16), (8, 8)),
        ({"window": (12, 20), "stride": 12}, (12, 20), (12, 12)),
    ):
        explanations = case.explain("occlusion", **settings)
        for i in (0, 2):
            scalar = case.scalar(i, hold=False)

            def score(crop: Tensor, scalar: Any = scalar) -> Tensor:
                shown = scalar.input_tensor.expand(len(crop), -1, -1, -1).clone()
                shown[:, :, :height, :width] = crop
                with torch.no_grad():
                    return scalar(shown)

            expected = attr.Occlusion(score).attribute(
                scalar.input_tensor[:, :, :height, :width], (3, *window), (3, *stride),
                baselines=case.black[:, :, :height, :width], perturbations_per_eval=8,
            )[0, 0]  # fmt: skip
            np.testing.assert_allclose(explanations[i].values, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("of", ["input_x_gradient", "integrated_gradients", "guided_backprop"])
@pytest.mark.parametrize("kind", ["smoothgrad_sq", "vargrad"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_smooth_grad_is_captums_noise_tunnel(case: Case, of: str, kind: str) -> None:
    explanation = case.explain("smooth_grad", of=of, kind=kind, n_samples=3, steps=4)[1]
    scalar = case.scalar(1, hold=True)
    image, more = scalar.input_tensor.clone(), {}
    torch.manual_seed(0)
    with scalar.hookable() as module:
        if of == "input_x_gradient":
            method = attr.InputXGradient(scalar)
        elif of == "guided_backprop":
            method = attr.GuidedBackprop(module)
        else:
            method, more = attr.IntegratedGradients(scalar), {"baselines": case.black, "n_steps": 4}
        found = attr.NoiseTunnel(method).attribute(
            image, nt_type=kind, nt_samples=3, stdevs=0.1 * float(image.max() - image.min()), **more
        )
    height, width = case.image.shape[1:]
    expected = found.detach()[0].sum(0)[:height, :width].float().numpy()
    np.testing.assert_allclose(explanation.values, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_integrated_gradients_tell_what_they_add_up_to(case: Case) -> None:
    for explanation in case.explain("integrated_gradients", steps=64):
        told = explanation.details
        difference = told["score"] - told["baseline_score"]
        assert told["sum_of_attributions"] == pytest.approx(difference, abs=0.01 * told["score"])
        # the padding, black like its baseline, gets nothing: all is on the image
        assert float(explanation.values.sum(dtype=np.float64)) == pytest.approx(told["sum_of_attributions"], rel=1e-4)


EXPECTED: dict[str, tuple[int, int]] = {  # images shown for 3 boxes: to a YOLO, and more where proposals are held
    "saliency": (1, 1),
    "input_x_gradient": (1, 1),
    "integrated_gradients": (12 + 2, 1),
    "smooth_grad": (6, 1),
    "gradient_shap": (6, 1),
    "guided_backprop": (1 + 1, 1),
    "deconvolution": (1 + 1, 1),
    "deep_lift": (1 + 2 + 2 + 3 * 2, 1),
    "occlusion": (1 + 7 * 7, -14),  # of 64 x 64 pixels; a photo of 48 x 64 has 5 x 7 windows
    "feature_ablation": (1 + 12, 0),
    "lime": (40, 0),
    "kernel_shap": (40, 0),
    "shapley_sampling": (1 + 2 * 12, 0),
}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_boxes_share_the_passes_that_are_told(case: Case, name: str) -> None:
    """The largest batch that the detector sees does not grow with steps or samples either."""
    seen, hook = images_seen(case.detector)
    try:
        explanations = case.explain(name)
    finally:
        hook.remove()
    to_yolo, more = EXPECTED[name]
    expected = to_yolo + more * (case.detector.family == "faster_rcnn")
    assert sum(seen) == expected
    assert {explanation.cost.forward_passes for explanation in explanations} == {expected}
    assert max(seen) <= 8


@pytest.mark.parametrize("name", list(SMALL))
def test_the_bar_of_a_long_method_ends_full(
    case: Case, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bars: list[tqdm] = []
    monkeypatch.setattr("detxai.progress.tqdm", lambda **given: bars.append(tqdm(**given)) or bars[-1])  # type: ignore[func-returns-value]
    case.explain(name, progress=True)
    (bar,) = bars
    assert bar.n == bar.total > 1
    capsys.readouterr()
    case.explain(name)
    assert capsys.readouterr().err == ""  # standard error is no terminal


def test_every_method_says_what_it_needs_and_takes() -> None:
    for kind in CAPTUM_METHODS:
        assert kind.needs in ("answers", "network", "gradients")
        assert kind.passes
        assert METHODS[kind.name] is kind


def test_other_seeds_draw_other_noise_and_the_same_seed_the_same(case: Case) -> None:
    if case.detector.family == "faster_rcnn":
        pytest.skip("one detector shows it")
    for name in ("smooth_grad", "gradient_shap", "kernel_shap", "shapley_sampling"):
        first, again, other = (case.explain(name, seed=seed)[0].values for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


def test_a_baseline_may_be_an_image(case: Case) -> None:
    black = case.explain("integrated_gradients")[0]
    image = case.explain("integrated_gradients", baseline=torch.zeros_like(case.image))[0]
    np.testing.assert_array_equal(black.values, image.values)
    assert image.settings["baseline"] == "an image: Tensor"
    itself = case.explain("integrated_gradients", baseline=case.image)[0]
    assert not itself.values.any()


def test_nothing_is_asked_of_no_boxes(case: Case) -> None:
    none = detxai.Detections([], [], [])
    for kind in CAPTUM_METHODS:
        assert kind()(case.detector, case.image, none) == []


def test_captums_remarks_are_not_the_users(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("saliency", "guided_backprop", "deep_lift"):
            case.explain(name)


def test_without_captum_the_extra_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    for kind in CAPTUM_METHODS:
        with pytest.raises(ImportError, match=r"pip install \"detxai\[captum\]\""):
            kind()(case.detector, case.image, case.found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntegratedGradients(steps=1), "steps must be a whole number from 2"),
        (lambda: IntegratedGradients(baseline="white"), "baseline must be 'black'"),
        (lambda: IntegratedGradients(baseline=np.zeros((2, 2))), "image must be"),
        (lambda: SmoothGrad(of="lime"), "of must be one of"),
        (lambda: SmoothGrad(kind="mean"), "kind must be one of"),  # type: ignore[arg-type]
        (lambda: SmoothGrad(stdev=-1.0), "stdev must be a number from 0"),
        (lambda: METHODS["gradient_shap"](baselines=()), "baselines must be a list"),
        (lambda: METHODS["occlusion"](window=0), "window must be pixels"),
        (lambda: METHODS["occlusion"](stride=1.5), "stride must be pixels"),
        (lambda: METHODS["lime"](alpha=0.0), "alpha must be a number above 0"),
        (lambda: METHODS["lime"](regions="voronoi"), "regions must be one of"),
        (lambda: METHODS["kernel_shap"](n_regions=1), "n_regions must be a whole number from 2"),
        (lambda: METHODS["shapley_sampling"](seed=-1), "seed must not be negative"),
        (lambda: METHODS["feature_ablation"](fill="pink"), "fill must be 'black'"),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_settings_that_do_not_fit_the_image_are_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="n_samples must be at least"):
        case.explain("kernel_shap", n_samples=6)
    with pytest.raises(ValueError, match="stride must be at most the window"):
        case.explain("occlusion", window=8, stride=9)
    with pytest.raises(ValueError, match="baseline must have the image's"):
        case.explain("integrated_gradients", baseline=np.zeros((9, 9, 3), np.uint8))
