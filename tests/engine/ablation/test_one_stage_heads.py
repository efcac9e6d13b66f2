"""Ablations of RetinaNet, FCOS and SSD: only what a channel reaches, against plain hooks on the model itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from faster_rcnns import photo
from one_stages import BUILDERS, small
from plain_hooks import dropped
from plain_one_stages import AnchorCase, narrow_fcos
from torch import nn

import detxai
from detxai import AblationCAM
from detxai.adapters.structure import NoShortcut
from detxai.detections import Candidates, Detections
from detxai.engine.ablation.dense.tail import DenseTail
from detxai.engine.ablation.full_tail import FullTail
from detxai.engine.ablation.tails import tail_of
from detxai.targets import BoxScoreTarget, BoxSideTarget, ClassScoreTarget, SimilarityTarget, Target

EXACT = 1e-9


def of_every_level(case: AnchorCase, n: int = 2) -> Detections:
    """The candidates of each level that score best, as detections: a detector finds few on its coarser levels."""
    detector = case.wrap(case.model)
    with torch.no_grad():
        candidates = detector.candidates(case.image)
        levels = list(detector.features(case.image).levels.values())
    scores, labels = candidates.class_scores[0].max(1)
    start, chosen = 0, []
    counts = case.model.anchor_generator.num_anchors_per_location()
    for level, per_cell in zip(levels, counts, strict=True):
        end = start + level[0, 0].numel() * per_cell
        chosen.append(start + scores[start:end].topk(n).indices)
        start = end
    places = torch.cat(chosen)
    return Detections(candidates.boxes[0, places, 0], scores[places], candidates.labels[labels[places]])


@pytest.mark.parametrize(
    "name", ["narrow retinanet", "narrow fcos", "narrow ssdlite", "ssd", "retinanet with group norm"]
)
def test_every_ablation_is_that_of_a_plain_hook(name: str) -> None:
    case = narrow_fcos() if name == "narrow fcos" else AnchorCase(name)
    with torch.no_grad():
        clean = case.answer({})
    found = of_every_level(case)
    drops = dropped(case, clean, found)  # type: ignore[arg-type]
    for explanation, drop in zip(AblationCAM(progress=False)(case.wrap(case.model), case.image, found), drops):
        assert explanation.details["tail"]["kind"].startswith("one-stage")
        torch.testing.assert_close(explanation.channel_effects, drop, atol=EXACT, rtol=0)
    assert float((drops.abs() > 0.01).sum(1).min()) > 0


def questions(found: Detections, size: tuple[int, int]) -> dict[str, list[Target]]:
    boxes, labels = found.boxes.tolist(), found.labels.tolist()
    first, last = (boxes[0], labels[0]), (boxes[-1], labels[-1])
    height, width = size
    return {
        "one class score": [ClassScoreTarget(*last)],
        "scores, sides and places where nothing is": [
            ClassScoreTarget(*first),
            BoxScoreTarget(*last),
            BoxSideTarget(*first, side="bottom"),
            ClassScoreTarget([width - 9, height - 7, width, height], 1),
            ClassScoreTarget([0, 0, width, height], 2),
        ],
        "all classes": SimilarityTarget.of(found)[:3],
    }


@pytest.mark.parametrize("name", BUILDERS)
def test_the_tail_is_the_whole_tail(name: str) -> None:
    """Against resuming the whole head: the clean score, random channels and fills, all kinds of questions."""
    case = AnchorCase(name, seed=2)
    detector, found = case.wrap(case.model), of_every_level(case, 1)
    features = detector.features(case.image)
    random = torch.Generator().manual_seed(0)
    with detector.borrowed(), torch.no_grad():
        for targets in questions(found, (case.image.shape[1], case.image.shape[2])).values():
            full, fast = FullTail(detector, features, targets), tail_of(detector, features, targets)
            assert isinstance(fast, DenseTail)
            torch.testing.assert_close(fast.clean, full.clean, atol=EXACT, rtol=0)
            for level, feature in features.levels.items():
                channels = torch.randperm(feature.shape[1], generator=random)[:4]
                fill = torch.tensor([0.0, 0.0, 3.0, -1.5]).double()
                scores = fast.scores(level, channels, fill)
                torch.testing.assert_close(scores, full.scores(level, channels, fill), atol=EXACT, rtol=0)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["narrow retinanet", "fcos", "ssdlite"])
def test_either_branch_may_come_first(name: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cheapest depends on the image; the answer does not."""
    case = AnchorCase(name)
    detector, found = case.wrap(case.model), of_every_level(case, 1)
    features = detector.features(case.image)
    with detector.borrowed(), torch.no_grad():
        targets: list[Target] = list(ClassScoreTarget.of(found))
        full, fast = FullTail(detector, features, targets), tail_of(detector, features, targets)
        assert isinstance(fast, DenseTail)
        monkeypatch.setattr(fast, "_cheapest_first", lambda *given: first)
        for level in features.levels:
            channels, fill = torch.arange(4), torch.zeros(4).double()
            assert {plan.first for plan in fast.plans(level)} == {first}
            scores = fast.scores(level, channels, fill)
            torch.testing.assert_close(scores, full.scores(level, channels, fill), atol=EXACT, rtol=0)
            # what is kept for windows does not grow with ablations
            assert sum(len(branch._reads) for branch in fast.ablation.branches[level]) <= len(fast.plans(level))


def test_a_target_of_ones_own_sees_every_candidate() -> None:
    class Sum:
        """How much there is of a class, anywhere."""

        def __call__(self, candidates: Candidates) -> torch.Tensor:
            return candidates.class_scores[..., 1].sum()

    case = AnchorCase("narrow retinanet")
    detector = case.wrap(case.model)
    features = detector.features(case.image)
    with detector.borrowed(), torch.no_grad():
        targets: Any = [Sum()]
        full, fast = FullTail(detector, features, targets), tail_of(detector, features, targets)
        for level in features.levels:
            channels, fill = torch.arange(4), torch.zeros(4).double()
            scores = full.scores(level, channels, fill)
            torch.testing.assert_close(fast.scores(level, channels, fill), scores, atol=1e-7, rtol=1e-12)


def test_a_head_that_normalises_whole_levels_is_not_tracked_and_says_why() -> None:
    case = narrow_fcos()
    detector, found = case.wrap(case.model), of_every_level(case, 1)
    some = AblationCAM(ratio_channels_to_ablate=0.25, progress=False)(detector, case.image, found)
    whole = AblationCAM(progress=False)(detector, case.image, found)
    for part, all_of_it in zip(some, whole, strict=True):
        assert part.channel_effects is not None
        assert int((~part.channel_effects.isnan()).sum()) == 2
        assert part.details["tail"]["reason"] == "the head normalises over a whole level"
        assert (part.values == all_of_it.values).all()


def _norm_of_instances(model: Any) -> None:
    model.head.classification_head.conv[0][1] = nn.InstanceNorm2d(4)


def _reflecting(model: Any) -> None:
    model.head.classification_head.cls_logits.padding_mode = "reflect"


def _own_head(model: Any) -> None:
    kind: Any = type(model.head)
    model.head.__class__ = type("Own", (kind,), {"forward": lambda self, x: kind.forward(self, x)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_norm_of_instances, "head.classification_head.conv.0.1 is a torch.nn.modules.instancenorm.InstanceNorm2d"),
        (_reflecting, "head.classification_head has Conv2d.* no plain convolution of stride 1"),
        (_own_head, "head is a .*Own"),
        (lambda model: setattr(model.box_coder, "decode_single", lambda *_: None), "box_coder has a decode_single"),
        (lambda model: model.anchor_generator.register_forward_hook(lambda *_: None), "anchor_generator has a forward"),
    ],
)
def test_parts_of_another_shape_say_so(change: Callable[[Any], None], said: str) -> None:
    case = AnchorCase("narrow retinanet")
    detector = case.wrap(case.model)
    features = detector.features(case.image)
    change(case.model)
    with detector.borrowed():
        structure: Any = detector.structure(features)
    assert isinstance(structure, NoShortcut)
    assert re.search(said, structure.reason)


def test_the_reason_stands_in_the_explanation() -> None:
    model = small("ssdlite")
    model.head.regression_head.module_list[0].register_forward_hook(lambda *_: None)
    detector = detxai.wrap(model)
    found = detector.detect(photo(0), 0)[:1]
    (explanation,) = AblationCAM(progress=False)(detector, photo(0), found)
    reason = "head.regression_head.module_list.0 has a forward hook"
    assert explanation.details["tail"] == {"kind": "full", "reason": reason}


def test_tracking_follows_the_best_cells() -> None:
    """Of a head of windows, a ratio of channels costs a part; the first of them are those that matter most."""
    case = AnchorCase("retinanet")
    detector, found = case.wrap(case.model), of_every_level(case, 1)
    features = detector.features(case.image)
    with detector.borrowed(), torch.no_grad():
        tail = tail_of(detector, features, list(ClassScoreTarget.of(found)))
        assert tail.approximate() is not None
    some = AblationCAM(ratio_channels_to_ablate=0.25, progress=False)(detector, case.image, found)
    whole = AblationCAM(progress=False)(detector, case.image, found)
    for part, all_of_it in zip(some, whole, strict=True):
        assert part.channel_effects is not None
        assert all_of_it.channel_effects is not None
        done = ~part.channel_effects.isnan()
        assert int(done.sum()) == 6
        torch.testing.assert_close(part.channel_effects[done], all_of_it.channel_effects[done], atol=EXACT, rtol=0)
