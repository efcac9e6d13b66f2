"""Stability and randomisation: the method again, elsewhere; and the model as it was, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from small_cases import noise, scene_case, scene_image, smooth
from torch import Tensor, nn

import detxai
from detxai.adapters.detector import Detector
from detxai.adapters.network import NetworkDetector, module_of
from detxai.metrics import Case, Randomisation, Stability
from detxai.metrics.inputs.similarity import structural_similarity
from detxai.metrics.randomisation import cascade, layers_from_the_head, randomised
from detxai.metrics.stability import redone, relative_change


@pytest.fixture(scope="module")
def detector() -> NetworkDetector:
    return detxai.wrap(small_faster_rcnn(width=8))


def eigen_case(detector: NetworkDetector) -> Case:
    """Eigen-CAM of a small detector, and how to make it again."""
    image = (photo(1).permute(1, 2, 0) * 255).byte().numpy()
    found = detector.detect(image, 0)[:2]

    def redo(detector: Detector, image: Any, seed: int) -> Tensor:
        return torch.from_numpy(detxai.EigenCAM()(detector, image)[0].values).expand(2, -1, -1)

    return Case(detector, image, found, redo(detector, image, 0), redo=redo)


Maker = Callable[[Tensor, int], Tensor]
MAKERS: dict[str, tuple[Maker, float, float]] = {  # what redo gives, the correlation, the relative change
    "the same": (lambda maps, seed: maps, 1, 0),
    "upside down": (lambda maps, seed: -maps, -1, 2),
    "twice as strong": (lambda maps, seed: 2 * maps, 1, 1),
    "nothing": (lambda maps, seed: torch.zeros_like(maps), 0, 1),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_stability_at_its_limits(kind: str) -> None:
    make, correlation, change = MAKERS[kind]
    maps = smooth(2, 160, 160)
    found = Stability(n_repeats=2)(scene_case(maps, redo=lambda detector, image, seed: make(maps, seed)))
    for name in ("noise", "seed"):
        assert found[f"{name}_correlation"].tolist() == pytest.approx([correlation] * 2, abs=1e-6)
        assert found[f"{name}_sensitivity"].tolist() == pytest.approx([change] * 2, abs=1e-6)


def test_random_maps_agree_by_chance_only() -> None:
    case = scene_case(noise(2, 160, 160), redo=lambda detector, image, seed: noise(2, 160, 160, seed + 1))
    found = Stability()(case)
    assert float(found["seed_correlation"].abs().max()) < 0.03


def test_one_thing_is_changed_at_a_time() -> None:
    """Noisy images with the first seed, then the clean image with other seeds."""
    asked: list[tuple[float, int]] = []
    maps = smooth(2, 160, 160)

    def redo(detector: Detector, image: Any, seed: int) -> Tensor:
        assert image.dtype == np.uint8
        asked.append((float(np.abs(image.astype(float) - scene_image()).mean()), seed))
        return maps

    Stability(n_repeats=2, noise=0.02, seed=7)(scene_case(maps, redo=redo))
    assert [seed for _, seed in asked] == [0, 0, 8, 9]
    assert all(3 < change < 5 for change, _ in asked[:2])  # mean of |N(0, 5.1)| is 4.07, less what is clipped
    assert [change for change, _ in asked[2:]] == [0, 0]
    assert asked[0][0] != asked[1][0]


def test_means_and_maxima_over_the_repeats() -> None:
    maps = smooth(2, 160, 160)
    made = [maps, -maps]

    def redo(detector: Detector, image: Any, seed: int) -> Tensor:
        return made[(seed - 1) % 2] if seed else maps

    found = Stability(n_repeats=2)(scene_case(maps, redo=redo))
    assert found["seed_correlation"].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert found["seed_sensitivity"].tolist() == pytest.approx([2, 2])


def test_relative_change_on_four_by_four() -> None:
    """Twelve zeros and 1 2 4 10, norm 11; 3 more at one pixel, 4 more at another: 5 / 11."""
    one = torch.zeros(1, 4, 4)
    one[0, 0] = torch.tensor([1.0, 2.0, 4.0, 10.0])
    other = one.clone()
    other[0, 1, 1] += 3
    other[0, 2, 2] += 4
    assert float(relative_change(one, other)) == pytest.approx(5 / 11)
    assert relative_change(torch.zeros(1, 4, 4), other).isnan().all()


def test_without_a_way_to_do_it_again_nothing_is_known() -> None:
    for measure in (Stability(), Randomisation()):
        assert all(values.isnan().all() for values in measure(scene_case()).values())
    with pytest.raises(ValueError, match="redo must be given"):
        redone(scene_case(), scene_image(), 0)


@pytest.mark.parametrize("bad", [torch.zeros(1, 160, 160), torch.full((2, 160, 160), torch.inf)])
def test_what_redo_gives_is_checked(bad: Tensor) -> None:
    case = scene_case(redo=lambda detector, image, seed: bad)
    with pytest.raises(ValueError, match="redo must return"):
        Stability()(case)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything a user could notice: which tensors, their memory, version and numbers, gradients, modes, hooks."""
    state = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        state[name] = (id(tensor), tensor.data_ptr(), tensor._version, tensor.requires_grad, tensor.detach().clone())
    modes = {name: (module.training, len(module._forward_pre_hooks)) for name, module in model.named_modules()}
    return {"state": state, "modes": modes, "random": torch.random.get_rng_state()}


def assert_unchanged(model: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(model)
    assert after["modes"] == before["modes"]
    assert torch.equal(after["random"], before["random"])
    for name, (*facts, values) in before["state"].items():
        *now, numbers = after["state"][name]
        assert now == facts, name
        assert torch.equal(numbers, values), name


def test_the_model_comes_back_exactly(detector: NetworkDetector) -> None:
    case = eigen_case(detector)
    first = next(iter(detector.model.parameters()))
    first.grad = gradient = torch.ones_like(first)
    before = snapshot(detector.model)
    Randomisation()(case)
    assert_unchanged(detector.model, before)
    assert first.grad is gradient
    assert torch.equal(gradient, torch.ones_like(first))
    detector.model.zero_grad()


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_the_model_comes_back_exactly_after_an_exception(detector: NetworkDetector, error: BaseException) -> None:
    case = eigen_case(detector)
    before = snapshot(detector.model)
    seen = []

    def redo(detector: Detector, image: Any, seed: int) -> Tensor:
        seen.append({name: values.clone() for name, values in module_of(detector).named_parameters()})
        if len(seen) == 2:
            raise error
        return case.maps

    broken = Case(detector, case.image, case.detections, case.maps, redo=redo)
    with pytest.raises(type(error)):
        Randomisation(n_stages=4)(broken)
    assert_unchanged(detector.model, before)
    changed = [
        {name for name, values in stage.items() if not torch.equal(values, before["state"][name][-1])} for stage in seen
    ]
    assert changed[0] < changed[1], "each stage randomises more, and all that the last one did"
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in changed[0]), "to the same weights"


def test_the_stages_go_from_the_head_to_the_input(detector: NetworkDetector) -> None:
    case = eigen_case(detector)
    names = {module: name for name, module in detector.model.named_modules()}
    layers = [names[layer] for layer in layers_from_the_head(detector, case.image)]
    assert set(layers[:2]) == {"roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"}
    assert layers[-1].startswith("backbone.blocks.0")
    owners = {name for name, module in detector.model.named_modules() if module._parameters}
    assert len(layers) == len(owners)
    assert set(layers) == owners


def test_eigen_cam_does_not_see_the_head_and_forgets_the_backbone(detector: NetworkDetector) -> None:
    """It reads the pyramid: a random head leaves it as it was, random everything does not."""
    case = eigen_case(detector)
    head = [layer for layer in layers_from_the_head(detector, case.image) if isinstance(layer, nn.Linear)]
    with randomised(head, seed=0):
        torch.testing.assert_close(redone(case, case.image, 0), case.maps, atol=0, rtol=0)
    stages = cascade(case, Randomisation(n_stages=3))
    assert len(stages) == 3
    assert not torch.allclose(stages[-1], case.maps, atol=0.1)


def test_random_weights_keep_their_spread(detector: NetworkDetector) -> None:
    layer: Any = detector.model.get_submodule("roi_heads.box_head.fc6")
    weight = layer.weight.detach().clone()
    with torch.no_grad(), randomised([layer], seed=0):
        assert float(layer.weight.std()) == pytest.approx(float(weight.std()), rel=0.02)
        assert float(layer.weight.mean()) == pytest.approx(float(weight.mean()), abs=float(weight.std()) * 0.02)
        correlation = torch.corrcoef(torch.stack([layer.weight.detach().flatten(), weight.flatten()]))[0, 1]
        assert abs(float(correlation)) < 0.02
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize(
    ("kind", "correlation", "similarity"), [("the same", 1.0, 1.0), ("upside down", 1.0, None), ("noise", 0.0, None)]
)
def test_randomisation_at_its_limits(kind: str, correlation: float, similarity: float | None) -> None:
    """A map that ignores the weights is the worst there is; one that is drawn anew each time has nothing left."""
    maps = smooth(2, 160, 160)

    def redo(detector: Detector, image: Any, seed: int) -> Tensor:
        return {"the same": maps, "upside down": -maps, "noise": noise(2, 160, 160)}[kind]

    found = Randomisation(n_stages=2)(scene_case(maps, redo=redo))
    for key in ("randomised_correlation", "randomised_correlation_last"):
        assert found[key].tolist() == pytest.approx([correlation] * 2, abs=0.05)
    for key in ("randomised_similarity", "randomised_similarity_last"):
        assert similarity is None or found[key].tolist() == pytest.approx([similarity] * 2, abs=1e-5)
        assert similarity is not None or float(found[key].abs().max()) < 0.3


def slow_similarity(first: Tensor, second: Tensor) -> float:
    """SSIM's formula, one window at a time, in float64."""
    x, y = ((m.clamp(min=0) / max(float(m.max()), 1e-30)).double() for m in (first, second))
    offsets = torch.arange(-5, 6).double()
    window = torch.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window = window / window.sum()
    values = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = (m[row : row + 11, column : column + 11] for m in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            top = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
            values.append(float(top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))))
    return float(np.mean(values))


def test_structural_similarity_is_the_papers() -> None:
    first, second = smooth(3, 14, 17), smooth(3, 14, 17, seed=5)
    second[2] = -1
    expected = [slow_similarity(a, b) for a, b in zip(first, second)]
    np.testing.assert_allclose(structural_similarity(first, second).numpy(), expected, atol=1e-4)
    assert structural_similarity(first, first).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_structural_similarity_of_a_map_smaller_than_the_window() -> None:
    small = smooth(2, 4, 20)
    assert structural_similarity(small, small).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert bool((structural_similarity(small, small.flip(1)) < 1).all())
