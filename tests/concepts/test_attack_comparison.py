"""A box's map beside attacks on it, where the answers are known: a linear score, and a map that is the hill itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from filter_detectors import grey, linear_detector

from detxai.concepts.attacks import PGD, compare_attack, make_goal
from detxai.evaluate.baselines import BoxCentre


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_numbers_and_regions_are_those_of_a_linear_score(norm: str) -> None:
    detector, image = linear_detector(), grey()
    detection = detector.detect(image)
    goal = make_goal("vanish", detector, image, detection)
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[:, :2] = True
    settings = PGD(norm, 0.2, steps=12, random_start=False)  # type: ignore[arg-type]
    found = compare_attack(detector, image, detection, goal, BoxCentre(), settings, mask=mask, pixel_budget=0.1)
    drops = {each.region: each.attack.drop for each in found.regions}
    assert drops["explained"] == drops["box centre"]
    assert found.numbers["correlation"] == found.numbers["box_correlation"]
    assert found.numbers["mass"] == found.numbers["box_mass"]
    assert found.numbers["map_correlation"] == 1  # this map does not look at the image
    assert all(drop <= drops["anywhere"] for drop in drops.values())
    others = {name: drop for name, drop in drops.items() if name in ("explained", "random")}
    assert drops["budget"] > max(others.values())  # as many pixels, those of the largest weights
    for each in found.regions:
        changed = (each.attack.attacked != image).any(2)
        assert changed.mean() <= each.share
    assert not (found.regions[-2].attack.attacked != image)[:, 2:].any()
    weights = detector.model.filters.weight.detach()[0]  # type: ignore[union-attr, operator]
    probe = np.corrcoef(found.probe.energy.ravel(), weights.square().sum(0).numpy().ravel())[0, 1]
    assert probe > 0.9


def test_what_does_not_fit_is_refused() -> None:
    detector, image = linear_detector(), grey()
    detection = detector.detect(image)
    goal = make_goal("vanish", detector, image, detection)
    with pytest.raises(ValueError, match="masks must be bool"):
        compare_attack(detector, image, detection, goal, BoxCentre(), mask=torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="pixel_budget must lie in"):
        compare_attack(detector, image, detection, goal, BoxCentre(), pixel_budget=0)
