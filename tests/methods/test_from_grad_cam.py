"""grad-cam's methods by name are what grad-cam's own classes say of the view, and leave everything as it was."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from plain_hooks import OneStage, TwoStages, beside, traced_back
from torch import Tensor

import detxai
from detxai.adapters import GradCamView
from detxai.geometry import Geometry
from detxai.methods import METHODS
from detxai.methods.from_grad_cam import FROM_GRAD_CAM, EigenGradCAM, FinerCAM, GradCAM, HiResCAM, ScoreCAM, ShapleyCAM
from detxai.methods.from_grad_cam.formulas import join_levels
from detxai.targets import ClassScoreTarget

GRADIENT = {
    "grad_cam": "GradCAM",
    "grad_cam_plusplus": "GradCAMPlusPlus",
    "hires_cam": "HiResCAM",
    "xgrad_cam": "XGradCAM",
    "grad_cam_elementwise": "GradCAMElementWise",
}
OF_THE_IMAGE = {"kpca_cam": "KPCA_CAM", "fem": "FEM"}


@pytest.fixture(scope="module", params=[TwoStages, OneStage])
def case(request: pytest.FixtureRequest) -> Any:
    return request.param()


def wrapped(case: Any) -> tuple[Any, detxai.Detections]:
    detector = case.wrap(case.model)
    return detector, beside(detector.detect(case.image, 0.02)[:2])


def joined(cells: list[npt.NDArray[Any]], view: GradCamView, case: Any, detector: Any) -> npt.NDArray[Any]:
    """The rule for several levels, written out: at the scale of the strongest, the mean of those that are not 0."""
    (geometry,) = detector.prepare(case.image).geometries
    maps = [geometry.map_to_image(torch.from_numpy(np.asarray(each, dtype=np.float64))).numpy() for each in cells]
    peaks = [np.abs(map_).max() for map_ in maps]
    speaking = [map_ / peak * max(peaks) for map_, peak in zip(maps, peaks) if peak > 0]
    assert speaking
    return np.asarray(np.mean(speaking, axis=0))


def test_a_level_of_rounding_does_not_count() -> None:
    whole = Geometry((2, 2), (2, 2), (2, 2))
    strong, noise = torch.tensor([[4.0, 0.0], [0.0, -1.0]]), torch.tensor([[0.0, 3e-9], [-4e-9, 0.0]])
    torch.testing.assert_close(join_levels([strong, noise], whole), strong)
    torch.testing.assert_close(join_levels([strong, 0 * noise], whole), strong)
    assert not join_levels([0 * strong, 0 * noise], whole).any()
    weak = torch.tensor([[0.0, 1e-4], [0.0, 0.0]])
    torch.testing.assert_close(join_levels([strong, weak], whole), (strong + 4e4 * weak) / 2)


def by_grad_cam(name: str, view: GradCamView, targets: list[Any], **settings: Any) -> list[npt.NDArray[Any]]:
    """What grad-cam's class makes of each level, before it clips and scales: its own call, on the view."""
    import pytorch_grad_cam

    with getattr(pytorch_grad_cam, name)(view, view.target_layers, **settings) as cam:
        inner = getattr(cam, "base_cam", cam)
        cam(view.input_tensor, targets=targets)
        seen = inner.activations_and_grads
        gradients = seen.gradients or [None] * len(seen.activations)
        return [
            inner.get_cam_image(view.input_tensor, layer, targets, a.numpy(), None if g is None else g.numpy(), False)[
                0
            ]
            for layer, a, g in zip(view.target_layers, seen.activations, gradients, strict=True)
        ]


def score_of(answer: Any, box: Tensor, label: int) -> Tensor:
    score: Tensor = answer.score(box, label)
    return score


def numpy_generator() -> npt.NDArray[Any]:
    """The state of NumPy's global generator."""
    state: Any = np.random.get_state()
    return np.array([*state[1], state[2]])


def close(values: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(values, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", GRADIENT)
def test_equals_grad_cams_own_call_on_the_view(case: Any, name: str) -> None:
    detector, found = wrapped(case)
    explanations = METHODS[name](propagate=False)(detector, case.image, found)
    for explanation, detection in zip(explanations, found, strict=True):
        view = GradCamView(detector, case.image)
        cells = by_grad_cam(GRADIENT[name], view, ClassScoreTarget.of(detection))
        close(explanation.values, joined(cells, view, case, detector))


@pytest.mark.parametrize("name", OF_THE_IMAGE)
def test_equals_grad_cams_own_call_for_the_image(case: Any, name: str) -> None:
    detector, _ = wrapped(case)
    view = GradCamView(detector, case.image)
    cells = by_grad_cam(OF_THE_IMAGE[name], view, [])
    if name == "kpca_cam":  # grad-cam leaves the sign to chance: here it goes along with the features' strength
        features = detector.features(case.image)
        strengths = [level[0].norm(dim=0).numpy() for level in features.levels.values()]
        cells = [c * np.sign(np.corrcoef(c.ravel(), s.ravel())[0, 1]) for c, s in zip(cells, strengths)]
    close(METHODS[name]()(detector, case.image)[0].values, joined(cells, view, case, detector))


def test_eigen_grad_cam_is_grad_cams_up_to_the_sign_which_speaks_for_the_box(case: Any) -> None:
    detector, found = wrapped(case)
    for explanation, detection in zip(EigenGradCAM(propagate=False)(detector, case.image, found), found):
        view = GradCamView(detector, case.image)
        projected, evidence = (
            by_grad_cam(name, view, ClassScoreTarget.of(detection)) for name in ("EigenGradCAM", "HiResCAM")
        )
        cells = [
            p * np.sign((p * (e - e.mean())).sum()) if p.any() else p for p, e in zip(projected, evidence, strict=True)
        ]
        close(explanation.values, joined(cells, view, case, detector))


def test_finer_cam_is_grad_cams_with_its_own_weighted_target(case: Any) -> None:
    from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

    detector, found = wrapped(case)
    labels = sorted(detector.candidates(case.image).labels.tolist())
    for explanation, detection in zip(FinerCAM(propagate=False, n_similar=2)(detector, case.image, found), found):
        own = labels.index(int(detection.labels[0]))

        def finer(output: Any, detection: Any = detection, own: int = own) -> Tensor:
            box = detection.boxes[0].tolist()
            scores = torch.stack([ClassScoreTarget(box, label)(output) for label in labels])
            others = [place for place in range(len(labels)) if place != own]
            similar = sorted(others, key=lambda place: float((scores[place] - scores[own]).detach().abs()))[:2]
            return FinerWeightedTarget(own, similar, 1.0)(scores)

        view = GradCamView(detector, case.image)
        close(explanation.values, joined(by_grad_cam("FinerCAM", view, [finer]), view, case, detector))
    for plain, finest in zip(GradCAM()(detector, case.image, found), FinerCAM(alpha=0)(detector, case.image, found)):
        close(finest.values, plain.values)


def test_score_cam_is_grad_cams_on_the_view_however_it_is_batched(case: Any) -> None:
    detector, found = wrapped(case)
    explanations = ScoreCAM(progress=False)(detector, case.image, found)
    for explanation, detection in zip(explanations, found, strict=True):
        view = GradCamView(detector, case.image)
        close(
            explanation.values,
            joined(by_grad_cam("ScoreCAM", view, ClassScoreTarget.of(detection)), view, case, detector),
        )
    for whole, by_three in zip(explanations, ScoreCAM(batch_size=3, progress=False)(detector, case.image, found)):
        np.testing.assert_allclose(by_three.values, whole.values, atol=1e-6)


def test_the_view_answers_changed_images_as_the_model_does() -> None:
    """What grad-cam's Score-CAM asks: before, every masked image had the answer of the whole one."""
    case = OneStage()
    detector, found = wrapped(case)
    view = GradCamView(detector, case.image)
    target = ClassScoreTarget.of(found)[0]
    half = case.image.clone()
    half[:, :, 32:] = 0
    case.image = half
    with torch.no_grad():
        expected = case.answer({}).score(found.boxes[0].double(), int(found.labels[0]))
        (whole, changed) = (target(output) for output in view(torch.cat([view.input_tensor, half[None]])))
    torch.testing.assert_close(changed, expected, atol=1e-9, rtol=0)
    assert abs(float(whole - changed)) > 1e-4


@pytest.mark.parametrize("propagate", [True, False])
def test_gradients_are_those_of_a_plain_hook_on_the_model(case: Any, propagate: bool) -> None:
    detector, found = wrapped(case)
    for i, explanation in enumerate(HiResCAM(propagate=propagate)(detector, case.image, found)):
        box, label = found.boxes[i].double(), int(found.labels[i])
        pairs = traced_back(case, partial(score_of, box=box, label=label), hold=not propagate)
        cells = [(level * gradient).sum(0).numpy() for level, gradient in pairs]
        close(explanation.values, joined(cells, GradCamView(detector, case.image), case, detector))


def test_on_one_level_the_heatmap_is_grad_cams_whole_call() -> None:
    """Where the features lie in the middle of their cells and nothing is below zero, its picture is ours."""
    from pytorch_grad_cam import GradCAMElementWise

    case = OneStage()
    detector, found = wrapped(case)
    level = METHODS["odam"]()(detector, case.image, found[:1])[0].details["levels"]["score"]
    view = GradCamView(detector, case.image, [level])
    with GradCAMElementWise(view, view.target_layers) as cam:
        (picture,) = cam(view.input_tensor, targets=ClassScoreTarget.of(found[:1]))
    (ours,) = METHODS["grad_cam_elementwise"](layers=[level])(detector, case.image, found[:1])
    np.testing.assert_allclose(
        ours.heatmap - ours.heatmap.min(), view.to_image(picture) * (1 - ours.heatmap.min()), atol=1e-4
    )


def test_shapley_cam_corrects_the_gradient_by_finite_differences_of_it() -> None:
    case = OneStage()
    detector, found = wrapped(case)
    # beside the candidate's own box, where its overlap has a bend
    found = replace(found, boxes=found.boxes + torch.tensor([2.0, 1.0, 3.0, -2.0]))
    level = METHODS["odam"]()(detector, case.image, found[:1])[0].details["levels"]["score"]
    features = detector.features(case.image, [level])
    (target,) = ClassScoreTarget.of(found[:1])

    def gradient(scale: float) -> Tensor:
        moved = (features.levels[level] * scale).requires_grad_()
        with torch.enable_grad():
            score = target(detector.resume(features.with_levels({level: moved})))
        return torch.autograd.grad(score, moved)[0][0]

    curvature = (gradient(1 + 1e-5) - gradient(1 - 1e-5)) / 2e-5
    weights = (gradient(1) - curvature / 2).mean((1, 2))
    (geometry,) = features.inputs.geometries
    expected = geometry.map_to_image((weights[:, None, None] * features.levels[level][0]).sum(0)).numpy()
    (explanation,) = ShapleyCAM(layers=[level])(detector, case.image, found[:1])
    close(explanation.values, expected)
    assert not np.allclose(GradCAM(layers=[level])(detector, case.image, found[:1])[0].values, expected, rtol=1e-3)


def test_shapley_cam_refuses_a_network_that_cannot_be_differentiated_twice() -> None:
    detector, found = wrapped(TwoStages())
    with pytest.raises(ValueError, match="differentiated twice"):
        ShapleyCAM()(detector, TwoStages.image, found)


@pytest.mark.parametrize("method", FROM_GRAD_CAM, ids=lambda method: method.name)
def test_the_model_and_the_callers_randomness_come_back(case: Any, method: Any) -> None:
    detector, found = wrapped(case)
    if method is ShapleyCAM and isinstance(case, TwoStages):
        pytest.skip("refused: see above")
    model = case.model.train()
    try:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        before = {name: value.clone() for name, value in model.state_dict().items()}
        torch_state, numpy_state = torch.get_rng_state(), numpy_generator()

        def failing(box: Any, label: int) -> Any:
            return lambda output: 1 / 0

        given = (found,) if method.asks_about_boxes else ()
        method()(detector, case.image, *given)
        if method.asks_about_boxes and method is not FinerCAM:
            with pytest.raises(ZeroDivisionError):
                method(target=failing)(detector, case.image, found)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert all(p.grad is None or bool((p.grad == 1).all()) for p in model.parameters())
        assert model.training
        assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert np.array_equal(numpy_generator(), numpy_state)
    finally:
        model.eval()
        for parameter in model.parameters():
            parameter.grad = None


@pytest.mark.parametrize("method", [m for m in FROM_GRAD_CAM if m.asks_about_boxes], ids=lambda method: method.name)
def test_more_boxes_take_no_more_passes_and_no_boxes_none(method: Any) -> None:
    case = OneStage()
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)[:3]
    assert method()(detector, case.image, detxai.Detections([], [], [])) == []
    runs: list[int] = []
    handle = case.model.model[0].register_forward_hook(lambda module, given, output: runs.append(len(output)))
    try:
        (one,), n_one = method()(detector, case.image, found[:1]), sum(runs)
        runs.clear()
        three, n_three = method()(detector, case.image, found), sum(runs)
    finally:
        handle.remove()
    assert n_one == n_three
    assert len(three) == len(found) == 3
    np.testing.assert_allclose(three[0].values, one.values, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "grad_cam", "propagate": 1}, TypeError, "propagate must be"),
        ({"method": "grad_cam", "target": 3}, TypeError, "target must be"),
        ({"method": "hires_cam", "layers": 3}, TypeError, "layers must be"),
        ({"method": "hires_cam", "layers": "nowhere"}, LookupError, "layer 'nowhere' is not in"),
        ({"method": "finer_cam", "alpha": -1.0}, ValueError, "alpha must be a number from 0"),
        ({"method": "finer_cam", "n_similar": 0}, ValueError, "n_similar must be a whole number from 1"),
        ({"method": "score_cam", "batch_size": 0}, ValueError, "batch_size must be a whole number from 1"),
        ({"method": "kpca_cam", "kernel": "round"}, ValueError, "kernel must be one of"),
        ({"method": "kpca_cam", "gamma": 0.0}, ValueError, "gamma must be a number above 0"),
        ({"method": "kpca_cam", "max_cells": 3}, ValueError, "max_cells must reach the size of at least one level"),
        ({"method": "fem", "k": -1.0}, ValueError, "k must be a number from 0"),
        ({"method": "xgrad_cams"}, ValueError, "did you mean 'xgrad_cam'"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    case = OneStage()
    detector, found = wrapped(case)
    with pytest.raises(error, match=message):
        detxai.explain(detector, case.image, detections=found, **settings)


def test_levels_too_large_for_a_kernel_are_left_out_by_name() -> None:
    case = OneStage()
    detector, _ = wrapped(case)
    (explanation,) = METHODS["kpca_cam"](max_cells=16)(detector, case.image)
    assert explanation.details["left_out"] == ["model.1"]
    (alone,) = METHODS["kpca_cam"](layers="model.2")(detector, case.image)
    np.testing.assert_array_equal(explanation.values, alone.values)
