"""On scenes whose cause is planted: the planted mask is best, random numbers are at chance, and a box may be wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_cases import noise, scenes_detector
from torch import Tensor

from detxai.detections import Detections
from detxai.metrics import Case, CausesFound, EvidenceAUC, EvidenceMass
from detxai.metrics.inputs.maps import box_masks
from detxai.scenes import generate

SEEDS = range(6)


def objects_with_evidence(kind: Any, seed: int) -> tuple[Any, list[int]]:
    scene = generate(seed, kind)
    return scene, [g for g in range(len(scene)) if scene.evidence[g].any()]


def measured(kind: Any, baseline: str) -> dict[str, float]:
    """Means over every object with evidence in a few scenes."""
    rows: dict[str, list[float]] = {}
    for seed in SEEDS:
        scene, places = objects_with_evidence(kind, seed)
        boxes = torch.from_numpy(scene.boxes[places])
        evidence = torch.from_numpy(scene.evidence[places])
        maps: dict[str, Tensor] = {
            "planted": evidence.float(),
            "upside down": -evidence.float(),
            "box": box_masks(boxes, (160, 160)).float(),
            "random": noise(len(places), 160, 160, seed),
        }
        case = Case(
            scenes_detector(),
            scene.image,
            Detections(boxes, torch.ones(len(places)), torch.from_numpy(scene.labels[places])),
            maps[baseline],
            evidence=evidence,
            causes=[torch.from_numpy(np.stack(scene.evidence_parts[g])) for g in places],
            allow_cropped=True,
        )
        for measure in (EvidenceMass(), EvidenceAUC(), CausesFound()):
            for key, values in measure(case).items():
                rows.setdefault(key, []).extend(values[~values.isnan()].tolist())
    return {key: float(np.mean(values)) for key, values in rows.items() if values}


@pytest.mark.parametrize("kind", ["local", "context", "redundant", "joint"])
def test_the_planted_mask_is_best_and_random_numbers_are_at_chance(kind: str) -> None:
    planted, random, inverted = (measured(kind, name) for name in ("planted", "random", "upside down"))
    assert planted["evidence_auc"] == 1
    assert planted["evidence_mass"] == pytest.approx(1, abs=1e-6)
    assert inverted["evidence_auc"] == inverted["evidence_mass"] == 0
    assert random["evidence_auc"] == pytest.approx(0.5, abs=0.03)
    assert random["evidence_mass"] == pytest.approx(random["evidence_mass_chance"], rel=0.1)


def test_a_box_loses_where_the_cause_lies_outside_it() -> None:
    context, local = measured("context", "box"), measured("local", "box")
    assert context["evidence_auc"] < 0.5 < 0.9 < local["evidence_auc"]
    assert context["evidence_mass"] < context["evidence_mass_chance"]
    assert local["evidence_mass"] > local["evidence_mass_chance"]


def test_both_marks_of_redundant_scenes_are_found_by_the_planted_mask_only() -> None:
    planted, random = measured("redundant", "planted"), measured("redundant", "random")
    assert planted["causes_all"] == planted["causes_share"] == planted["causes_worst_auc"] == 1
    assert random["causes_all"] == 0
    assert 0.4 < random["causes_worst_auc"] < 0.5
