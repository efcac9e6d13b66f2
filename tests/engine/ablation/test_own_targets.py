"""A target of one's own is answered as by the whole detector, unless its class says what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from plain_hooks import OneStage, TwoStages, called
from torch import Tensor

from detxai import AblationCAM
from detxai.detections import Candidates, Detections
from detxai.geometry import box_iou
from detxai.targets import (
    BoxScoreTarget,
    BoxSideTarget,
    BoxTarget,
    ClassScoreTarget,
    ContrastTarget,
    SimilarityTarget,
)
from detxai.targets.target import AnsweredBy, Match


@dataclass(frozen=True)
class AgainstOthers(BoxTarget):
    """By how much the best candidate's class beats its other classes."""

    @classmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        best = (match.iou * match.score).argmax(-1, keepdim=True)
        total = candidates.class_scores.sum(-1).expand(len(targets), -1, -1)
        return (2 * match.score - total).gather(-1, best)[..., 0]


@dataclass(frozen=True)
class Anywhere(BoxTarget):
    """The place of the best-scored candidate, within reach or not."""

    @classmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        boxes, scores = candidates.of_labels(torch.tensor([target.label for target in targets]))
        best = scores.argmax(-1, keepdim=True)
        return boxes[..., 0].expand_as(scores).gather(-1, best)[..., 0]


@dataclass(frozen=True)
class Overlap(BoxTarget):
    """The highest IoU of any candidate, whatever its score, and how many there are."""

    @classmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        box = candidates.boxes.new_tensor([target.box for target in targets])[:, None, None]
        return box_iou(box, candidates.boxes[:, :, 0]).amax(-1) + (candidates.objectness > 0).sum(-1)


@dataclass(frozen=True)
class Softened(ClassScoreTarget):
    """A kin of a quick target that is not quick itself: the mean over candidates."""

    @classmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        return (match.iou * match.score).mean(-1)


@dataclass(frozen=True)
class Doubled(ClassScoreTarget):
    """Says what it leaves out, for itself."""

    answered_by: ClassVar[AnsweredBy] = "highest class score"
    reads_all_classes: ClassVar[bool] = False
    ignores_reach: ClassVar[bool] = False

    @classmethod
    def score(cls, targets: Sequence[Any], match: Match, candidates: Candidates) -> Tensor:
        return 2 * (match.iou * match.score).amax(-1)


@torch.no_grad()
def by_hand(case: TwoStages | OneStage, target: BoxTarget) -> Tensor:
    """(C,) drops, with a hook that sets a channel to zero in the pass that the adapter reads its candidates from."""
    detector = case.wrap(case.model)

    def asked(put_out: dict[str, dict[str, Tensor]]) -> Tensor:
        return target(called(case.model, case.layers, put_out, lambda: detector.candidates(case.image))[0])

    clean, drops = case.answer({}), []
    for layer, levels in clean.outputs.items():
        for entry, level in levels.items():
            for channel in range(level.shape[1]):
                changed = level.clone()
                changed[0, channel] = 0
                held = {
                    name: {**kept, **({entry: changed} if name == layer else {})}
                    for name, kept in clean.outputs.items()
                }
                drops.append(asked({}) - asked(held))
    return torch.stack(drops)


@pytest.mark.parametrize("make", [AgainstOthers, Anywhere, Overlap, Softened, Doubled, ContrastTarget])
@pytest.mark.parametrize("kind", [TwoStages, OneStage])
def test_an_own_target_is_answered_exactly(kind: Any, make: Any) -> None:
    case = kind()
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)[1]
    (explanation,) = AblationCAM(target=make, progress=False)(detector, case.image, found)
    expected = by_hand(case, make.of(found)[0])
    assert bool((expected.abs() > 1e-6).any())
    torch.testing.assert_close(explanation.channel_effects, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", [TwoStages, OneStage])
def test_at_a_ratio_too(kind: Any) -> None:
    case = kind()
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)[1]
    method = AblationCAM(target=Softened, progress=False, ratio_channels_to_ablate=0.1)
    (explanation,) = method(detector, case.image, found)
    expected = by_hand(case, Softened.of(found)[0])
    assert explanation.channel_effects is not None
    done = ~explanation.channel_effects.isnan()
    torch.testing.assert_close(explanation.channel_effects[done], expected[done], atol=1e-9, rtol=0)


def test_promises_are_kept_by_exactly_the_class_that_makes_them() -> None:
    for own in (ClassScoreTarget, BoxScoreTarget, BoxSideTarget, SimilarityTarget, ContrastTarget):
        assert own.answered_by != "any candidates"
        assert not own.ignores_reach

        class Heir(own):  # type: ignore[misc, valid-type]
            pass

        for kind in (Heir, BoxTarget):
            assert (kind.answered_by, kind.reads_all_classes, kind.ignores_reach) == ("any candidates", True, True)
    assert SimilarityTarget.reads_all_classes
    assert ContrastTarget.reads_all_classes
    assert not ClassScoreTarget.reads_all_classes


def test_what_a_target_says_of_itself_decides_the_tail() -> None:
    case = TwoStages()
    detector = case.wrap(case.model)
    found: Detections = detector.detect(case.image, 0.02)[:1]
    tails = [AblationCAM(target=t)(detector, case.image, found)[0].details["tail"] for t in (Doubled, Softened)]
    assert tails[0] == {"kind": "two-stage"}
    assert tails[1]["kind"] == "full"
    assert "any candidate" in tails[1]["reason"]
