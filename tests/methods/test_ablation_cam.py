"""Ablation-CAM: the paper's weights by brute force, the ratio that does what it says, grad-cam where it is right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from torch import Tensor, nn

import detxai
from detxai.adapters.network import NetworkDetector
from detxai.adapters.torchvision.pixels import image_list
from detxai.adapters.views.grad_cam import GradCamView
from detxai.detections import Detections
from detxai.engine.ablation.channels import n_to_ablate, predicted_drops
from detxai.engine.ablation.full_tail import FullTail
from detxai.engine.rank_correlation import rank_correlation
from detxai.methods.ablation_cam import AblationCAM, combine_levels
from detxai.targets import BoxScoreTarget, ClassScoreTarget, score_targets


def agreement(a: detxai.Explanation, b: detxai.Explanation) -> float:
    return float(rank_correlation(torch.from_numpy(a.values)[None], torch.from_numpy(b.values)[None]))


@pytest.fixture(scope="module")
def detector() -> NetworkDetector:
    return detxai.wrap(small_faster_rcnn(width=8).double())


def _by_hand(detector: NetworkDetector, image: Tensor, target: Any, fill: Any = "zero") -> tuple[Tensor, Tensor]:
    """Drops (C,) and map (H, W), one channel at a time through the whole detector."""
    features = detector.features(image)
    geometry = features.inputs.geometries[0]
    with torch.no_grad():
        y = score_targets([target], detector.candidates(image))[0, 0]
        drops, total = [], torch.zeros(image.shape[1:], dtype=torch.float64)
        for name, level in features.levels.items():
            for channel in range(level.shape[1]):
                changed = level.clone()
                mean = level[0, channel].mean()
                changed[0, channel] = 0 if fill == "zero" else mean if fill == "mean" else fill
                y_c = score_targets([target], detector.resume(features.with_levels({name: changed})))[0, 0]
                drops.append(y - y_c)
                shown = level[0, channel] - (mean if fill == "mean" else 0)
                total += geometry.map_to_image(shown) * (y - y_c) / y
    return torch.stack(drops), total


@pytest.mark.parametrize("fill", ["zero", 0.7, "mean"])
def test_is_the_papers_formula(detector: NetworkDetector, fill: Any) -> None:
    image = photo(1)
    found = detector.detect(image, 0)[:3]
    explanations = AblationCAM(fill=fill)(detector, image, found)
    assert len(explanations) == 3
    for explanation, target in zip(explanations, ClassScoreTarget.of(found)):
        drops, values = _by_hand(detector, image, target, fill)
        torch.testing.assert_close(explanation.channel_effects, drops, atol=1e-9, rtol=0)
        np.testing.assert_allclose(explanation.values, values.numpy(), atol=1e-5)
        assert float(explanation.values.min()) < 0 <= float(explanation.heatmap.min())


@pytest.mark.parametrize("ratio", [0.001, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.6, 0.7, 0.9, 0.99, 1.0])
def test_the_ratio_ablates_exactly_that_many_channels(detector: NetworkDetector, ratio: float) -> None:
    image = photo(1)
    found = detector.detect(image, 0)[:2]
    for explanation in AblationCAM(ratio_channels_to_ablate=ratio)(detector, image, found):
        effects = explanation.channel_effects
        assert effects is not None
        assert effects.shape == (24,)
        assert int((~effects.isnan()).sum()) == math.ceil(round(ratio * 24, 9)) == n_to_ablate(ratio, 24)


@pytest.mark.parametrize("ranking", ["tracked", "first_order", "energy", lambda features: torch.arange(24.0)])
def test_the_ratio_keeps_the_weights_of_the_channels_it_ablates(detector: NetworkDetector, ranking: Any) -> None:
    image = photo(2)
    found = detector.detect(image, 0)[:2]
    whole = AblationCAM()(detector, image, found)
    part = AblationCAM(ratio_channels_to_ablate=0.5, ranking=ranking)(detector, image, found)
    for a, b in zip(whole, part):
        assert a.channel_effects is not None
        assert b.channel_effects is not None
        done = ~b.channel_effects.isnan()
        torch.testing.assert_close(a.channel_effects[done], b.channel_effects[done], atol=1e-9, rtol=0)
    if callable(ranking):
        assert done.tolist() == [False] * 12 + [True] * 12


@pytest.mark.parametrize(("ranking", "least"), [("tracked", 0.5), ("first_order", 0.45)])
def test_ranking_finds_the_channels_that_matter(detector: NetworkDetector, ranking: Any, least: float) -> None:
    """A quarter of the channels holds far more than a quarter of the drops."""
    shares = []
    for seed in range(4):
        image = photo(seed)
        found = detector.detect(image, 0)[:3]
        whole = AblationCAM()(detector, image, found)
        part = AblationCAM(ratio_channels_to_ablate=0.25, ranking=ranking)(detector, image, found)
        for a, b in zip(whole, part):
            assert a.channel_effects is not None
            assert b.channel_effects is not None
            done = ~b.channel_effects.isnan()
            shares.append(float(a.channel_effects[done].abs().sum() / a.channel_effects.abs().sum()))
    assert np.mean(shares) > least


def test_the_rest_weighs_what_the_gradient_predicts(detector: NetworkDetector) -> None:
    """Predicted drops are the slope of the score as the channel goes towards its fill, by small steps."""
    image = photo(2)
    found = detector.detect(image, 0)[:2]
    # beside the found boxes: at a box itself its IoU has a kink, and rounding decides which of two slopes is seen
    beside = Detections(found.boxes + torch.tensor([1.0, 2.0, -1.5, 1.0]), found.scores, found.labels)
    targets = ClassScoreTarget.of(beside)
    features = detector.features(image)
    fill = torch.zeros(24, dtype=torch.float64)
    with detector.borrowed():
        predicted = predicted_drops(detector, [features], targets, fill)
    level = next(iter(features.levels.values()))
    step = 1e-6
    for channel in (0, 3, 7):
        nudged = level.clone()
        nudged[0, channel] *= 1 - step
        # the RPN's proposals carry no gradient: hold them still by asking the heads alone
        with torch.no_grad(), detector.borrowed():
            still = _with_clean_proposals(detector, features)
            before = score_targets(targets, still(level))[:, 0]
            after = score_targets(targets, still(nudged))[:, 0]
        torch.testing.assert_close((before - after) / step, predicted[:, channel], atol=1e-5, rtol=1e-3)
    part = AblationCAM(ratio_channels_to_ablate=0.25, unablated_weights="first_order")(detector, image, beside)
    whole = AblationCAM()(detector, image, beside)
    for i, (a, b) in enumerate(zip(whole, part)):
        assert a.channel_effects is not None
        assert b.channel_effects is not None
        effects = torch.where(b.channel_effects.isnan(), predicted[i], a.channel_effects)
        weights = (effects / score_targets(targets, detector.candidates(image))[i, 0].detach())[None]
        np.testing.assert_allclose(b.values, combine_levels(features, weights)[0].numpy(), atol=1e-6)


def _with_clean_proposals(detector: Any, features: Any) -> Any:
    """From the finest level to the candidates, with the proposals that the clean features give."""
    rpn = detector.model.rpn
    pyramid = {name.partition(":")[2]: level for name, level in features.levels.items()}
    images = image_list(features.inputs.geometries, next(iter(pyramid.values())))
    proposals, _ = rpn(images, pyramid)

    def candidates(finest: Tensor) -> Any:
        name = next(iter(features.levels))
        handle = rpn.register_forward_hook(lambda *_: (proposals, {}))
        try:
            return detector.resume(features.with_levels({name: finest}))
        finally:
            handle.remove()

    return candidates


def test_ranking_by_gradient_needs_gradients(detector: NetworkDetector) -> None:
    found = detector.detect(photo(2), 0)[:1]
    method = AblationCAM(
        ratio_channels_to_ablate=0.5, ranking="first_order", target=lambda b, c: lambda output: torch.tensor(1.0)
    )
    with pytest.raises(ValueError, match="needs targets with gradients"):
        method(detector, photo(2), found)


def own_target(*, gradients: bool) -> Any:
    """A question of one's own, which may read any candidate."""

    def ask(box: Any, label: int) -> Any:
        asked = ClassScoreTarget(box, label, reach=0)
        return lambda output: asked(output) if gradients else asked(output).detach()

    return ask


def test_what_cannot_be_tracked_is_ranked_by_gradient_or_energy_where_the_rest_weighs_nothing(
    detector: NetworkDetector,
) -> None:
    image = photo(2)
    found = detector.detect(image, 0)[:1]
    for way, gradients in (("first_order", True), ("energy", False)):
        settings: dict[str, Any] = {"unablated_weights": "zero", "target": own_target(gradients=gradients)}
        (ours,) = AblationCAM(ratio_channels_to_ablate=0.5, **settings)(detector, image, found)
        (named,) = AblationCAM(ratio_channels_to_ablate=0.5, ranking=way, **settings)(detector, image, found)  # type: ignore[arg-type]
        np.testing.assert_array_equal(ours.values, named.values)


def test_what_cannot_be_tracked_has_the_map_of_all_channels_at_any_ratio(caplog: pytest.LogCaptureFixture) -> None:
    detector = detxai.wrap(small_faster_rcnn(width=8).double())
    hooked = small_faster_rcnn(width=8).double()
    hooked.roi_heads.box_head.register_forward_hook(lambda module, given, output: output * 0.7)
    image = photo(2)
    found = detector.detect(image, 0)[:3]
    for adapter, target in ((detxai.wrap(hooked), ClassScoreTarget), (detector, own_target(gradients=False))):
        caplog.clear()
        whole = AblationCAM(target=target)(adapter, image, found)
        part = AblationCAM(target=target, ratio_channels_to_ablate=0.1)(adapter, image, found)
        assert "all 24 channels, whatever ratio_channels_to_ablate is" in caplog.text
        for one, other in zip(whole, part, strict=True):
            assert one.values.any()
            np.testing.assert_allclose(other.values, one.values, atol=1e-7)
            assert one.channel_effects is not None
            assert other.channel_effects is not None
            done = ~other.channel_effects.isnan()
            assert int(done.sum()) == n_to_ablate(0.1, 24)
            assert torch.equal(other.channel_effects[done], one.channel_effects[done])
            assert other.cost.forward_passes == one.cost.forward_passes


def test_fidelity_stops_early_but_not_too_early(detector: NetworkDetector) -> None:
    image = photo(2)
    found = detector.detect(image, 0)[:2]
    whole = AblationCAM()(detector, image, found)
    part = AblationCAM(fidelity=0.9)(detector, image, found)
    for a, b in zip(whole, part):
        assert b.channel_effects is not None
        assert 1 <= int((~b.channel_effects.isnan()).sum()) <= 24
        assert agreement(a, b) > 0.7


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batch_size_changes_nothing(detector: NetworkDetector, batch_size: int) -> None:
    image = photo(3)
    found = detector.detect(image, 0)[:2]
    for a, b in zip(AblationCAM()(detector, image, found), AblationCAM(batch_size=batch_size)(detector, image, found)):
        np.testing.assert_allclose(a.values, b.values, atol=1e-9)


def test_many_detections_at_once_are_each_alone(detector: NetworkDetector) -> None:
    image = photo(3)
    found = detector.detect(image, 0)[:4]
    together = AblationCAM()(detector, image, found)
    for i in range(4):
        (alone,) = AblationCAM()(detector, image, found[i])
        np.testing.assert_allclose(together[i].values, alone.values, atol=1e-9)


@pytest.mark.parametrize(("sign", "offset"), [(-1.0, 0.0), (1.0, 0.0)])
def test_a_negative_score_keeps_the_sign_of_its_drops(detector: NetworkDetector, sign: float, offset: float) -> None:
    """Divided by y < 0, what holds the score up would seem to push it down (HOTPATH, defect 5)."""
    image = photo(1)
    found = detector.detect(image, 0)[:1]

    def target(box: Any, label: int) -> Any:
        own = ClassScoreTarget(box, label, reach=0)
        return lambda output: sign * own(output) + offset

    (explanation,) = AblationCAM(target=target)(detector, image, found)
    (plain,) = AblationCAM(target=lambda b, c: ClassScoreTarget(b, c, reach=0))(detector, image, found)
    np.testing.assert_allclose(explanation.values, sign * plain.values, atol=1e-6)


def test_a_score_of_zero_is_not_divided_by(detector: NetworkDetector) -> None:
    image = photo(1)
    nowhere = detxai.Detections([[0.0, 0.0, 0.5, 0.5]], [0.5], [1])
    (explanation,) = AblationCAM()(detector, image, nowhere)
    assert np.isfinite(explanation.values).all()
    assert not explanation.heatmap.any()


def test_no_detections_no_explanations(detector: NetworkDetector) -> None:
    assert detxai.explain(detector, photo(1), "ablation_cam", detxai.Detections([], [], [])) == []


def test_an_inner_layer_goes_through_the_full_tail(detector: NetworkDetector) -> None:
    image = photo(1)
    found = detector.detect(image, 0)[:1]
    layer = "backbone.blocks.1"
    (explanation,) = AblationCAM(layers=layer)(detector, image, found)
    features = detector.features(image, layer)
    with detector.borrowed(), torch.no_grad():
        tail = FullTail(detector, features, ClassScoreTarget.of(found))
        scores = tail.scores(layer, torch.arange(8), torch.zeros(8, dtype=torch.float64))
    torch.testing.assert_close(explanation.channel_effects, (tail.clean[:, None] - scores)[0], atol=1e-12, rtol=0)


def test_agrees_with_grad_cam_where_grad_cam_is_right(detector: NetworkDetector) -> None:
    """One box, its layer, features whose least value is 0 (so that its fill is 0), batch size 1."""
    from pytorch_grad_cam import AblationCAM as Peer
    from pytorch_grad_cam.ablation_layer import AblationLayer

    model = small_faster_rcnn(width=8)
    for block in model.backbone.blocks:
        block[2] = nn.ReLU()
    relu, image = detxai.wrap(model), photo(1)
    found = relu.detect(image, 0)[:1]
    (ours,) = AblationCAM(target=BoxScoreTarget)(relu, image, found)
    assert ours.channel_effects is not None
    start = 0
    for i, level in enumerate(relu.features(image).levels.values()):
        view = GradCamView(relu, image)
        peer = Peer(view, [view.target_layers[i]], ablation_layer=AblationLayer(), batch_size=1)
        targets = BoxScoreTarget.of(found)
        with torch.no_grad():
            view(view.input_tensor)
            peer.outputs = view(view.input_tensor)
            theirs = peer.get_cam_weights(
                view.input_tensor, view.target_layers[i], targets, level.numpy(), np.zeros_like(level)
            )[0]
        drops = ours.channel_effects[start : start + len(theirs)]
        with torch.no_grad():
            clean = float(score_targets(targets, relu.candidates(image))[0, 0])
        np.testing.assert_allclose(theirs, drops.numpy() / clean, atol=1e-3)
        start += len(theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio_channels_to_ablate": 0}, r"ratio_channels_to_ablate must lie in \(0, 1\], got 0"),
        ({"ratio_channels_to_ablate": 1.2}, "ratio_channels_to_ablate must lie"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
        ({"fidelity": 1.0}, "fidelity must be a rank correlation"),
        ({"precision": "int8"}, "precision must be one of"),
        ({"margin": 0}, r"margin must be a share of the best score in \(0, 1\), or None, got 0"),
        ({"margin": 1.5}, "margin must be a share of the best score"),
        ({"unablated_weights": "half"}, "unablated_weights must be one of"),
        ({"fill": "red"}, "fill must be 'zero', 'mean' or a finite number"),
        ({"fill": math.nan}, "fill must be finite, got nan"),
        (
            {"ranking": "best", "ratio_channels_to_ablate": 0.5},
            "ranking must be 'tracked', 'first_order', 'energy' or a callable",
        ),
        (
            {"ranking": lambda f: torch.zeros(3), "ratio_channels_to_ablate": 0.5},
            "ranking must return 24 finite numbers",
        ),
    ],
)
def test_bad_settings(detector: NetworkDetector, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detxai.explain(detector, photo(1), "ablation_cam", detxai.Detections([[0, 0, 9, 9]], [0.5], [1]), **settings)


def test_lower_precision_changes_the_features_and_not_how_they_are_ablated(detector: NetworkDetector) -> None:
    single = detxai.wrap(small_faster_rcnn(width=8))
    image = photo(1)
    found = single.detect(image, 0)[:2]
    half = AblationCAM(precision="bf16")(single, image, found)
    with torch.autocast("cpu", torch.bfloat16):
        features = single.features(image)
    features = features.with_levels({name: level.float() for name, level in features.levels.items()})
    targets = ClassScoreTarget.of(found)
    with single.borrowed(), torch.no_grad():
        full = FullTail(single, features, targets)
        drops = [
            full.clean[:, None] - full.scores(name, torch.arange(level.shape[1]), level.new_zeros(level.shape[1]))
            for name, level in features.levels.items()
        ]
    effects = torch.stack([e.channel_effects for e in half if e.channel_effects is not None])
    torch.testing.assert_close(effects, torch.cat(drops, 1), atol=5e-5, rtol=0)


def test_a_compiled_backbone_of_the_users_own_is_explained_too() -> None:
    image, model = photo(1).double(), small_faster_rcnn(width=8).double()
    found = detxai.wrap(model).detect(image, 0)[:2]
    plain = AblationCAM()(detxai.wrap(model), image, found)
    model.backbone.compile(backend="eager")  # needs no compiler
    compiled = AblationCAM()(detxai.wrap(model), image, found)
    for one, other in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-6)


def test_channels_last_gives_the_same(detector: NetworkDetector) -> None:
    found = detector.detect(photo(1).double(), 0)[:2]
    plain, last = (AblationCAM(channels_last=last)(detector, photo(1).double(), found) for last in (False, True))
    for one, other in zip(plain, last, strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-6)
