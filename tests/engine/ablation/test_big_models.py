"""The shortcuts on torchvision's own architectures, 200 random channels each: minutes, so only with ``-m slow``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from faster_rcnns import photo
from torchvision.models import detection as tv

import detxai
from detxai.adapters.torchvision.spread import spread_like_trained
from detxai.engine.ablation.full_tail import FullTail
from detxai.engine.ablation.tails import tail_of
from detxai.engine.ablation.two_stage.tail import TwoStageTail
from detxai.targets import ClassScoreTarget

BUILDERS: dict[str, Callable[..., Any]] = {
    "fasterrcnn_resnet50_fpn": tv.fasterrcnn_resnet50_fpn,
    "fasterrcnn_resnet50_fpn_v2": tv.fasterrcnn_resnet50_fpn_v2,
    "fasterrcnn_mobilenet_v3_large_fpn": tv.fasterrcnn_mobilenet_v3_large_fpn,
    "fasterrcnn_mobilenet_v3_large_320_fpn": tv.fasterrcnn_mobilenet_v3_large_320_fpn,
    "maskrcnn_resnet50_fpn": tv.maskrcnn_resnet50_fpn,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_200_random_channels_equal_brute_force(name: str, record_property: Callable[[str, object], None]) -> None:
    image = photo(0, 270, 360)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BUILDERS[name](weights=None, weights_backbone=None, min_size=256, max_size=400).eval()
    spread_like_trained(model, image)
    detector = detxai.wrap(model)
    found = detector.detect(image, 0)[:8]
    assert len(found) == 8
    features = detector.features(image)
    generator = torch.Generator().manual_seed(1)
    with detector.borrowed(), torch.no_grad():
        targets = ClassScoreTarget.of(found)
        fast, full = tail_of(detector, features, targets), FullTail(detector, features, targets)
        assert isinstance(fast, TwoStageTail)
        worst = 0.0
        for level, tensor in features.levels.items():
            n = 200 // len(features.levels)
            for channels in torch.randperm(tensor.shape[1], generator=generator)[:n].split(8):
                fill = torch.zeros(len(channels))
                difference = fast.scores(level, channels, fill) - full.scores(level, channels, fill)
                worst = max(worst, float(difference.abs().max()))
    record_property("largest_score_difference", worst)
    assert worst < 5e-5
