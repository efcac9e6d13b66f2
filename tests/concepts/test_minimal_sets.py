"""Minimal sets: of any condition, and of the channels of a detector whose minimal sets are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from filter_detectors import FilterDetector, grey
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import detxai
from detxai.adapters.network import require_network
from detxai.concepts.channels.layer_pass import Channel
from detxai.concepts.channels.minimal_sets import minimal_set
from detxai.concepts.channels.sufficient import sufficient_channels
from detxai.detections import Detections
from detxai.engine.ablation.full_tail import FullTail
from detxai.scenes import generate
from detxai.targets import ClassScoreTarget


def without_each(members: list[int]) -> list[list[int]]:
    return [[other for other in members if other != member] for member in members]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.data())
def test_no_member_of_a_minimal_set_can_be_dropped(n: int, data: st.DataObject) -> None:
    """Conditions are "all of these, or all of those, or ...", and one that more members may also break."""
    terms = data.draw(st.lists(st.frozensets(st.integers(0, n - 1), min_size=1), min_size=1, max_size=4))
    spoiler = data.draw(st.frozensets(st.integers(0, n - 1), min_size=1, max_size=3))
    order = data.draw(st.permutations(range(n)))

    def passes(members: list[int]) -> bool:
        whole = len(members) == n
        return whole or (any(term <= set(members) for term in terms) and not spoiler <= set(members))

    found = minimal_set(order, lambda sets: [passes(list(members)) for members in sets])
    assert passes(found)
    assert not any(passes(smaller) for smaller in without_each(found))


def test_what_passes_without_members_needs_none_and_what_never_passes_is_refused() -> None:
    assert minimal_set([0, 1], lambda sets: [True for _ in sets]) == []
    with pytest.raises(ValueError, match="must pass for all 2 members"):
        minimal_set([0, 1], lambda sets: [False for _ in sets])


def and_or(out: Tensor) -> Tensor:
    """Channels 1 and 4 together, or 0, 2 and 5 together; channel 3 does nothing."""
    c = out.amax((2, 3))
    return torch.maximum(0.9 * c[:, 1] * c[:, 4], 0.8 * c[:, 0] * c[:, 2] * c[:, 5])


def toy(score: Callable[[Tensor], Tensor]) -> FilterDetector:
    filters = nn.Conv2d(3, 6, 1)
    filters.weight, filters.bias = nn.Parameter(torch.zeros(6, 3, 1, 1)), nn.Parameter(torch.ones(6))
    return FilterDetector(filters, score, (2, 2, 10, 10))


def test_the_minimal_channels_of_a_toy_are_those_of_its_formula() -> None:
    detector = toy(and_or)
    found = sufficient_channels(detector, grey(), detector.detect(grey())[0], progress=False)
    assert {channel.number for channel in found.channels} in ({1, 4}, {0, 2, 5})
    assert found.n_channels == 6
    detector = toy(lambda out: and_or(torch.cat([out[:, :1], out[:, 1:2] * 0, out[:, 2:]], 1)))
    found = sufficient_channels(detector, grey(), detector.detect(grey())[0], progress=False)
    assert [channel.number for channel in sorted(found.channels)] == [0, 2, 5]
    assert str(found).startswith("3 of 6 channels keep this box")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scenes-yolo", "scenes-frcnn"])
def test_on_a_trained_detector_no_channel_can_be_dropped(name: str) -> None:
    """Checked by hooks of the test's own on the model, which share nothing with the engine."""
    pytest.importorskip("ultralytics", reason="the extra yolo")
    detector = require_network(detxai.wrap(name))
    image = generate(60, "shortcut").image
    detection = detector.detect(image)[0]
    layers = [dict(detector.model.named_modules())[layer] for layer in detector.default_layers]
    found = sufficient_channels(detector, image, detection, progress=False)
    assert 0 < len(found.channels) < found.n_channels
    target = ClassScoreTarget.of(detection)[0]
    clean: dict[str, Any] = {}

    def score(kept: list[Channel] | None) -> float:
        """With these channels alone, as they are in the clean pass; None: with all, which are noted."""

        def replace(name: str, output: Any) -> Any:
            if kept is None:
                clean[name] = output
                return None
            if isinstance(clean[name], Tensor):
                return only(name, clean[name], kept)
            return type(output)((key, only(f"{name}:{key}", level, kept)) for key, level in clean[name].items())

        handles = [
            layer.register_forward_hook(lambda module, args, output, name=name: replace(name, output))
            for name, layer in zip(detector.default_layers, layers)
        ]
        try:
            with detector.borrowed(), torch.no_grad():
                return float(target(detector._forward(detector.prepare(image))))
        finally:
            for handle in handles:
                handle.remove()

    assert score(None) == pytest.approx(found.clean_score, abs=1e-4)
    assert score(found.channels) == pytest.approx(found.score, abs=1e-4)
    assert found.score >= 0.5 * found.clean_score
    for dropped in found.channels[:8]:
        assert score([channel for channel in found.channels if channel != dropped]) < 0.5 * found.clean_score


def only(level: str, values: Tensor, kept: list[Channel]) -> Tensor:
    """The level with the kept channels alone."""
    changed = torch.zeros_like(values)
    for channel in kept:
        if channel.level == level:
            changed[:, channel.number] = values[:, channel.number]
    return changed


def test_sets_of_one_ablated_channel_are_the_engines_single_ablations() -> None:
    detector = toy(and_or)
    features = detector.features(grey())
    tail = FullTail(detector, features, ClassScoreTarget.of(detector.detect(grey())))
    singly = tail.scores("filters", torch.arange(6), torch.zeros(6))
    torch.testing.assert_close(tail.scores_of_sets(~torch.eye(6, dtype=torch.bool), torch.zeros(6)), singly)


def test_bad_input_is_refused() -> None:
    detector = toy(and_or)
    detection = detector.detect(grey())[0]
    with pytest.raises(ValueError, match="keeps must lie in"):
        sufficient_channels(detector, grey(), detection, keeps=0)
    with pytest.raises(ValueError, match="one box"):
        sufficient_channels(detector, grey(), Detections([], [], []))
    with pytest.raises(LookupError, match="layer 'backbone'"):
        sufficient_channels(detector, grey(), detection, ["backbone"])
