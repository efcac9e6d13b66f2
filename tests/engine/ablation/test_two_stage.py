"""Every shortcut through a two-stage detector gives what the full tail gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models import detection as tv
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import roi_align

import detxai
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine import batching
from detxai.engine.ablation.full_tail import FullTail
from detxai.engine.ablation.tails import tail_of
from detxai.engine.ablation.two_stage.roi_align import FeatureTable, sample_boxes
from detxai.engine.ablation.two_stage.tail import TwoStageTail
from detxai.targets import BoxScoreTarget, BoxSideTarget, ClassScoreTarget, ContrastTarget, SimilarityTarget

KINDS = (ClassScoreTarget, BoxScoreTarget, SimilarityTarget, BoxSideTarget, ContrastTarget)


def _version_2(**settings: Any) -> Any:
    """As ``fasterrcnn_resnet50_fpn_v2``: two convolutions in the RPN, convolutions in the box head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = small_faster_rcnn(**settings)
        width = model.backbone.out_channels
        model.rpn.head = RPNHead(width, 3, conv_depth=2)
        model.rpn.head.cls_logits.weight.data.mul_(60)
        model.roi_heads.box_head = FastRCNNConvFCHead((width, 7, 7), [width], [32], norm_layer=torch.nn.BatchNorm2d)
        model.roi_heads.box_predictor = FastRCNNPredictor(32, 5)
        model.roi_heads.box_predictor.cls_score.weight.data.mul_(6)
    return model.eval()


def _mask(**settings: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        small = small_faster_rcnn()
        return tv.MaskRCNN(
            small.backbone,
            num_classes=5,
            rpn_anchor_generator=small.rpn.anchor_generator,
            box_roi_pool=small.roi_heads.box_roi_pool,
            mask_roi_pool=small.roi_heads.box_roi_pool,
            min_size=96,
            max_size=160,
            rpn_post_nms_top_n_test=80,
            **settings,
        ).eval()


MODELS: dict[str, Callable[[], Any]] = {
    "three levels": small_faster_rcnn,
    "three levels of 64 channels": lambda: small_faster_rcnn(width=64),
    "five levels, all pooled": lambda: small_faster_rcnn(n_levels=5, pooled=5, width=8),
    "one level": lambda: small_faster_rcnn(n_levels=1, pooled=1),
    "few places after suppression": lambda: small_faster_rcnn(rpn_post_nms_top_n_test=20),
    "few places before suppression": lambda: small_faster_rcnn(rpn_pre_nms_top_n_test=7),
    "a score threshold for proposals": lambda: small_faster_rcnn(rpn_score_thresh=0.5),
    "no proposals": lambda: small_faster_rcnn(rpn_score_thresh=1.1),
    "version 2": _version_2,
    "mask": _mask,
}


def _targets(detector: Detector, image: Tensor, reach: float) -> list[Any]:
    """Some of what is found, a box far away in a corner, a tiny one, and one as large as the image."""
    height, width = image.shape[1:]
    found = detector.detect(image, 0)[:3]
    boxes = [*found.boxes.tolist(), [0, 0, 9, 7], [width - 4, height - 3, width, height], [0, 0, width, height]]
    labels = [*found.labels.tolist(), 1, 2, 3]
    asked = Detections(boxes, [0.5] * len(boxes), labels)
    return [KINDS[i % len(KINDS)].of(asked[i], reach=reach)[0] for i in range(len(asked))] + ClassScoreTarget.of(
        asked, reach=reach
    )


def _worst(model: Any, image: Tensor, reach: float, per_level: int, seed: int, value: float = 0.0) -> float:
    detector = detxai.wrap(model)
    targets = _targets(detector, image, reach)
    features = detector.features(image)
    worst = 0.0
    generator = torch.Generator().manual_seed(seed)
    with detector.borrowed(), torch.no_grad():
        fast, full = tail_of(detector, features, targets), FullTail(detector, features, targets)
        assert isinstance(fast, TwoStageTail)
        worst = float((fast.clean - full.clean).abs().max())
        for name, level in features.levels.items():
            channels = torch.randperm(level.shape[1], generator=generator)[:per_level]
            fill = torch.full((len(channels),), value, dtype=level.dtype)
            difference = (fast.scores(name, channels, fill) - full.scores(name, channels, fill)).abs()
            worst = max(worst, float(difference.max()))
    return worst


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "64 channels" in name else name for name in MODELS]
)
@pytest.mark.parametrize("reach", [0.1, 0.0])
def test_equals_brute_force_in_double_precision(name: str, reach: float) -> None:
    assert _worst(MODELS[name]().double(), photo(1), reach, per_level=100, seed=0) < 1e-9


@pytest.mark.parametrize("value", [0.0, 0.8, -1000.0])
def test_equals_brute_force_for_any_fill(value: float) -> None:
    assert _worst(small_faster_rcnn().double(), photo(2), 0.1, per_level=4, seed=0, value=value) < 1e-9


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    height=st.integers(20, 140),
    width=st.integers(20, 140),
    n_levels=st.integers(1, 4),
    reach=st.sampled_from([0.0, 0.1, 0.4]),
)
def test_equals_brute_force_for_any_shape(seed: int, height: int, width: int, n_levels: int, reach: float) -> None:
    model = small_faster_rcnn(seed, n_levels=n_levels, width=8).double()
    assert _worst(model, photo(seed, height, width), reach, per_level=3, seed=seed) < 1e-9


def test_equals_brute_force_in_single_precision() -> None:
    for seed in range(3):
        assert _worst(small_faster_rcnn(seed), photo(seed), 0.1, per_level=8, seed=seed) < 5e-5


@pytest.mark.parametrize("name", ["three levels", "version 2", "no proposals"])
def test_equals_brute_force_the_way_a_gpu_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU computes as one batch and a CPU in turn, on a CPU."""
    monkeypatch.setattr(batching, "LOOP_DEVICES", set())
    assert _worst(MODELS[name]().double(), photo(1), 0.1, per_level=100, seed=0) < 1e-9


def test_ties_are_broken_as_in_the_full_pass() -> None:
    model = small_faster_rcnn().double()
    torch.nn.init.zeros_(model.rpn.head.cls_logits.weight)  # every anchor of a level scores the same
    assert _worst(model, photo(3), 0.1, per_level=4, seed=0) < 1e-9


def test_a_users_own_part_or_hook_goes_the_full_way() -> None:
    """What the shortcuts do not know they must not skip."""

    class OwnPool(torch.nn.Module):
        def __init__(self, pool: Any) -> None:
            super().__init__()
            self.pool = pool

        def forward(self, *arguments: Any) -> Tensor:
            return self.pool(*arguments) * 0.5

    own = small_faster_rcnn()
    own.roi_heads.box_roi_pool = OwnPool(own.roi_heads.box_roi_pool)
    hooked = small_faster_rcnn()
    hooked.roi_heads.box_head.register_forward_hook(lambda module, inputs, output: output * 0.5)
    for model in (own, hooked):
        detector = detxai.wrap(model)
        features = detector.features(photo(0))
        with detector.borrowed(), torch.no_grad():
            assert isinstance(tail_of(detector, features, ClassScoreTarget.of(detector.detect(photo(0), 0))), FullTail)


def test_a_target_of_ones_own_sees_every_candidate() -> None:
    detector = detxai.wrap(small_faster_rcnn().double())
    features = detector.features(photo(4))
    own: list[Any] = [lambda candidates: candidates.class_scores.sum(), ClassScoreTarget([0, 0, 30, 30], 1)]
    with detector.borrowed(), torch.no_grad():
        fast, full = tail_of(detector, features, own), FullTail(detector, features, own)
        channels, fill = torch.arange(3), torch.zeros(3, dtype=torch.float64)
        for level in features.levels:
            torch.testing.assert_close(
                fast.scores(level, channels, fill), full.scores(level, channels, fill), atol=1e-9, rtol=0
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roi_align_is_torchvisions(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    levels = {"a": torch.randn(1, 5, 13, 17, generator=generator), "b": torch.randn(1, 5, 7, 9, generator=generator)}
    levels = {name: level.to(dtype) for name, level in levels.items()}
    scales = {"a": 1 / 8, "b": 1 / 16}
    corner = torch.rand(60, 2, generator=generator) * 130 - 15
    boxes = torch.cat([corner, corner + torch.rand(60, 2, generator=generator) * 90], 1).to(dtype)
    boxes[0] = torch.tensor([0, 0, 136, 104])  # the whole input
    boxes[1] = torch.tensor([50, 50, 50, 50])  # empty: counts as one cell
    boxes[2] = torch.tensor([135.9, 103.9, 150, 120])  # beyond the edge
    level = torch.randint(0, 2, (60,), generator=generator)
    table = FeatureTable.from_levels(levels, scales)
    ours = sample_boxes(table, boxes, level, (7, 7), 2).pool(table.rows).transpose(1, 2).unflatten(2, (7, 7))
    for i, (name, features) in enumerate(levels.items()):
        theirs = roi_align(features, [boxes[level == i]], (7, 7), scales[name], sampling_ratio=2)
        torch.testing.assert_close(ours[level == i], theirs, atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0)
