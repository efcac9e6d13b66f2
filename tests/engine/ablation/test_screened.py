"""Looking only at the moved proposals that are expected near the best: never more than the exact answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from test_dense import detector as yolo_detector
from test_tracked import n_looked_at, scores_of
from torch import Tensor

import detxai
from detxai import scenes
from detxai.adapters.detector import Detector
from detxai.engine.ablation.tails import tail_of
from detxai.engine.ablation.two_stage.screened import ScreenedTwoStage
from detxai.targets import BoxScoreTarget, BoxSideTarget, ClassScoreTarget, SimilarityTarget, Target


def questions(adapter: Detector, image: Tensor) -> list[Target]:
    """Of all kinds that one candidate answers, of what is found and of boxes where little is."""
    found = adapter.detect(image, 0)[:3]
    boxes = [*found.boxes.tolist(), [0.0, 0.0, 9.0, 7.0], [0.0, 0.0, 90.0, 70.0]]
    targets: list[Target] = [ClassScoreTarget(box, 1) for box in boxes]
    targets += [BoxScoreTarget(boxes[0], 2), BoxSideTarget(boxes[0], 1, side="left")]
    return [*targets, *SimilarityTarget.of(found)]


@pytest.mark.parametrize(
    "settings", [{}, {"rpn_post_nms_top_n_test": 20}, {"rpn_score_thresh": 1.1}, {"n_levels": 1, "pooled": 1}]
)
def test_a_margin_of_all_there_is_gives_the_exact_answer(settings: dict[str, Any]) -> None:
    adapter = detxai.wrap(small_faster_rcnn(**settings).double())
    image = photo(3).double()
    features, targets = adapter.features(image), questions(adapter, image)
    with adapter.borrowed(), torch.no_grad():
        tail = tail_of(adapter, features, targets)
        widest = tail.screened(1.0)
        assert isinstance(widest, ScreenedTwoStage)
        torch.testing.assert_close(scores_of(widest, features), scores_of(tail, features), atol=1e-9, rtol=0)


def test_a_small_margin_never_gives_more() -> None:
    adapter = detxai.wrap(small_faster_rcnn().double())
    image = photo(2).double()
    features = adapter.features(image)
    targets = [target for target in questions(adapter, image) if isinstance(target, ClassScoreTarget)]
    with adapter.borrowed(), torch.no_grad():
        tail = tail_of(adapter, features, targets)
        exact, found = scores_of(tail, features), scores_of(tail.screened(0.05), features)
    assert (found <= exact + 1e-9).all()
    assert ((found - exact).abs() < 1e-9).double().mean() > 0.8


@pytest.mark.parametrize("kind", ["local", "spread", "redundant", "shortcut"])
def test_on_a_trained_detector_it_is_the_exact_answer_from_fewer_looks(
    kind: scenes.Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = detxai.wrap(scenes.load_frcnn())
    image = scenes.generate(7, kind).image
    features, targets = adapter.features(image), ClassScoreTarget.of(adapter.detect(image)[:4])
    with adapter.borrowed(), torch.no_grad():
        tail = tail_of(adapter, features, targets)
        fewer = tail.screened(0.5)
        torch.testing.assert_close(scores_of(fewer, features), scores_of(tail, features), atol=2e-5, rtol=0)
        counts = [n_looked_at(tail, way, features, monkeypatch) for way in (tail, fewer)]
    assert counts[1] < counts[0]


def test_only_a_two_stage_tail_is_screened() -> None:
    adapter = detxai.wrap(small_faster_rcnn())
    features = adapter.features(photo(1))
    dense = yolo_detector("v8")
    with adapter.borrowed(), torch.no_grad():
        own = tail_of(adapter, features, [lambda candidates: candidates.class_scores.sum()])
        assert own.screened(0.2) is own, "such a target may look at any candidate"
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    level = dense.features(image)
    with dense.borrowed(), torch.no_grad():
        tail = tail_of(dense, level, [ClassScoreTarget([0, 0, 30, 30], 1)])
        assert tail.screened(0.2) is tail
