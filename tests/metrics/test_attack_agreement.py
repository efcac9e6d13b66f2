"""The measure that compares a map with an attack, where the attack is known."""

from __future__ import annotations

import torch
from black_boxes import WHITE, sees, share
from filter_detectors import grey, linear_detector

from detxai.metrics import AttackAgreement, Case


def test_the_attacks_own_energy_agrees_best_and_its_opposite_worst() -> None:
    """The score is linear: the attack within L2 is the weights themselves."""
    detector, image = linear_detector(), grey()
    energy = detector.model.filters.weight.detach()[0].square().sum(0)  # type: ignore[union-attr, operator]
    found = detector.detect(image)
    for map_, low, high in ((energy, 0.9, 1.0), (-energy, -1.0, -0.9)):
        values = AttackAgreement(steps=10)(Case(detector, image, found, map_[None]))
        assert low <= float(values["attack_correlation"]) <= high
        drop, chance = float(values["attack_drop"]), float(values["attack_drop_chance"])
        assert drop > chance > 0 if low > 0 else drop < chance
    marked = energy.flatten().topk(14).values.sum() / energy.sum()
    values = AttackAgreement(steps=10)(Case(detector, image, found, energy[None]))
    assert abs(float(values["attack_mass"]) - float(marked)) < 0.08


def test_a_black_box_cannot_be_attacked_by_gradients() -> None:
    detector = sees(share(0, 0, 10, 10))
    maps = torch.rand(1, 48, 64)
    values = AttackAgreement()(Case(detector, WHITE, detector.detect(WHITE), maps))
    assert all(bool(value.isnan().all()) for value in values.values())
