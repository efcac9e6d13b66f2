"""Evidence mass: how much of the map lies on the pixels that are known to have decided?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.metrics.energy import energy_share
from detxai.metrics.inputs.case import Case, Quantity
from detxai.metrics.inputs.maps import where_known


@dataclass(frozen=True)
class EvidenceMass:
    """The share of the map's positive sum that lies on the known evidence. A flat map has the chance level.

    Source: Arras et al., 2022, CLEVR-XAI (Information Fusion), relevance mass accuracy.
    """

    name: ClassVar[str] = "evidence_mass"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "evidence_mass": Quantity("share of the map on the evidence", 0, 1, "higher", "evidence_mass_chance"),
        "evidence_mass_chance": Quantity("the evidence's share of the image", 0, 1, None),
    }

    def __call__(self, case: Case) -> dict[str, Tensor]:
        evidence = torch.zeros_like(case.maps, dtype=torch.bool) if case.evidence is None else case.evidence
        known = evidence.any(2).any(1)
        return {
            "evidence_mass": where_known(energy_share(case.maps, evidence), known),
            "evidence_mass_chance": where_known(evidence.float().mean((1, 2)), known),
        }
