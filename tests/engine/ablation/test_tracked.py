"""Following only the candidates that answer a target: never more than the exact answer, nearly always that answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from test_dense import detector as yolo_detector
from test_dense import questions

import detxai
from detxai import scenes
from detxai.adapters.detector import Features
from detxai.adapters.network import NetworkDetector
from detxai.engine.ablation.dense import tracked as tracked_dense
from detxai.engine.ablation.full_tail import FullTail
from detxai.engine.ablation.tail import Tail
from detxai.engine.ablation.tails import tail_of
from detxai.engine.ablation.two_stage import tracked as tracked_two_stage
from detxai.engine.ablation.two_stage.proposals import LevelProposals
from detxai.engine.rank_correlation import rank_correlation
from detxai.methods.ablation_cam import AblationCAM
from detxai.targets import ClassScoreTarget, Target


def exact_and_tracked(
    adapter: NetworkDetector, features: Features, targets: Sequence[Target]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores (T, C) of all channels, both ways."""
    with adapter.borrowed(), torch.no_grad():
        tail = tail_of(adapter, features, targets)
        follower = tail.approximate()
        assert follower is not None
        torch.testing.assert_close(follower.clean, tail.clean, atol=0, rtol=0)
        return scores_of(tail, features), scores_of(follower, features)


def scores_of(tail: Tail, features: Features) -> torch.Tensor:
    """(T, C) of all channels, each set to zero."""
    return torch.cat(
        [
            tail.scores(name, torch.arange(level.shape[1]), level.new_zeros(level.shape[1]))
            for name, level in features.levels.items()
        ],
        1,
    )


@pytest.mark.parametrize("family", ["v8", "11", "26 end2end"])
def test_the_cells_of_a_dense_head_fall_short_of_the_exact_answer_or_give_it(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = yolo_detector(family)
    features = adapter.features(_bus())
    targets = [t for t in questions(adapter, (250, 190)) if type(t) is ClassScoreTarget]
    exact, found = exact_and_tracked(adapter, features, targets)
    assert (found <= exact + 1e-9).all(), "some candidates cannot reach more than all of them"
    assert ((found - exact).abs() < 1e-9).double().mean() > 0.8
    monkeypatch.setattr(tracked_dense, "MAX_TRACKED", 10**6)
    exact, found = exact_and_tracked(adapter, features, targets)
    torch.testing.assert_close(found, exact, atol=1e-9, rtol=0)


def _bus() -> Any:
    from yolo_seeded import bus

    return bus(250, 190)


@pytest.mark.parametrize("n_levels", [1, 3])
def test_the_proposals_of_some_anchors_are_those_of_all_where_all_are_asked_for(n_levels: int) -> None:
    adapter = detxai.wrap(small_faster_rcnn(n_levels=n_levels, pooled=n_levels).double())
    features = adapter.features(photo(1).double())
    structure: Any = adapter.structure(features)
    channels = torch.tensor([1, 5])
    fill = torch.tensor([0.0, 3.0], dtype=torch.float64)
    with adapter.borrowed(), torch.no_grad():
        for name, level in features.levels.items():
            level_proposals = LevelProposals(structure.proposals, name, level, structure.resized_size)
            n = min(len(level_proposals.anchors), structure.proposals.n_before_nms)
            expected = level_proposals.ablated(channels, fill)
            for row in range(2):
                mine = expected.anchors[row]
                assert len(mine) == n
                found = level_proposals.ablated_at_anchors(mine, channels[row, None], fill[row, None])
                torch.testing.assert_close(found.boxes[0], expected.boxes[row], atol=1e-9, rtol=0)
                torch.testing.assert_close(found.scores[0], expected.scores[row], atol=1e-9, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"rpn_post_nms_top_n_test": 20}, {"rpn_score_thresh": 1.1}])
def test_the_proposals_followed_give_the_exact_answer_nearly_always(settings: dict[str, Any]) -> None:
    adapter = detxai.wrap(small_faster_rcnn(**settings).double())
    image = photo(2).double()
    features = adapter.features(image)
    found = adapter.detect(image, 0)[:4]
    boxes = [*found.boxes.tolist(), [0.0, 0.0, 30.0, 20.0], [0.0, 0.0, 1.0, 1.0]]
    exact, followed = exact_and_tracked(adapter, features, [ClassScoreTarget(box, 1) for box in boxes])
    assert torch.isfinite(followed).all()
    assert ((followed - exact).abs() < 1e-9).double().mean() > 0.6
    drops, predicted = (exact[:, :1] - exact).flatten(), (exact[:, :1] - followed).flatten()
    if exact.any():
        assert torch.corrcoef(torch.stack([drops, predicted]))[0, 1] > 0.8


def test_a_tenth_of_the_channels_gives_the_map_of_all_on_a_trained_detector() -> None:
    """Of the bundled one, on a scene; without the tracked rest the map is another one."""
    adapter = detxai.wrap(scenes.load_frcnn())
    agreements: dict[str, list[float]] = {"tracked": [], "zero": []}
    for seed in range(3):
        image = scenes.generate(seed, "local").image
        found = adapter.detect(image)[:3]
        whole = AblationCAM()(adapter, image, found)
        for rest, values in agreements.items():
            part = AblationCAM(ratio_channels_to_ablate=0.1, unablated_weights=rest)(adapter, image, found)  # type: ignore[arg-type]
            maps = [torch.stack([torch.from_numpy(e.values) for e in each]) for each in (whole, part)]
            values += rank_correlation(*maps).tolist()
    means = {rest: sum(values) / len(values) for rest, values in agreements.items()}
    assert means["tracked"] > 0.93
    assert means["tracked"] > means["zero"] + 0.1  # of seven boxes: a flip of one of them is worth a few hundredths


def test_what_may_look_anywhere_is_not_tracked() -> None:
    adapter = detxai.wrap(small_faster_rcnn())
    features = adapter.features(photo(1))
    with adapter.borrowed(), torch.no_grad():
        own = lambda output: output.class_scores.sum()  # noqa: E731
        assert tail_of(adapter, features, [own]).approximate() is None
        assert FullTail(adapter, features, [ClassScoreTarget([0, 0, 9, 9], 1)]).approximate() is None


def n_looked_at(tail: Any, way: Tail, features: Features, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many proposals ``way``, which asks ``tail``, looks at anew when all channels are ablated."""
    looked_at: list[int] = []
    own = tail.ablation.box_head.score_ablated

    def noted(boxes: torch.Tensor, *rest: Any) -> Any:
        looked_at.append(len(boxes))
        return own(boxes, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(tail.ablation.box_head, "score_ablated", noted)
        scores_of(way, features)
    return sum(looked_at)


def test_following_fewer_rivals_costs_less_than_looking_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it cheap: of the second stage it computes a fraction of the boxes."""
    adapter = detxai.wrap(small_faster_rcnn())
    image = photo(2)
    features = adapter.features(image)
    targets: list[Target] = list(ClassScoreTarget.of(adapter.detect(image, 0)[:3]))
    with adapter.borrowed(), torch.no_grad():
        tail: Any = tail_of(adapter, features, targets)
        follower: Any = tail.approximate()
        counts = [n_looked_at(tail, way, features, monkeypatch) for way in (tail, follower)]
    assert counts[1] < counts[0] / 3
    assert tracked_two_stage.MAX_TRACKED * len(targets) >= max(
        len(followed.moving) for followed in follower.tracked.values()
    )
