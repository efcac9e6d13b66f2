"""Measures of an explanation, one file each.

>>> sorted(MEASURES["energy"].quantities)
['energy_box', 'energy_box_chance', 'energy_mask', 'energy_mask_chance']
"""

from detxai.metrics.attack_agreement import AttackAgreement
from detxai.metrics.average_drop import AverageDrop
from detxai.metrics.compactness import Compactness
from detxai.metrics.energy import EnergyPointingGame
from detxai.metrics.infidelity import Infidelity
from detxai.metrics.inputs.case import Case, Measure, Objects, Quantity
from detxai.metrics.insertion_deletion import Curves, InsertionDeletion
from detxai.metrics.leakage import Leakage
from detxai.metrics.planted_evidence.causes_found import CausesFound
from detxai.metrics.planted_evidence.evidence_auc import EvidenceAUC
from detxai.metrics.planted_evidence.evidence_mass import EvidenceMass
from detxai.metrics.pointing_game import PointingGame
from detxai.metrics.randomisation import Randomisation
from detxai.metrics.road import ROAD
from detxai.metrics.sparseness import Sparseness
from detxai.metrics.stability import Stability
from detxai.metrics.visual_accuracy import VisualAccuracy

MEASURES: dict[str, type[Measure]] = {
    measure.name: measure
    for measure in (
        InsertionDeletion,
        ROAD,
        AverageDrop,
        Infidelity,
        PointingGame,
        EnergyPointingGame,
        VisualAccuracy,
        Leakage,
        Compactness,
        Sparseness,
        Stability,
        Randomisation,
        AttackAgreement,
        EvidenceMass,
        EvidenceAUC,
        CausesFound,
    )
}

__all__ = [
    "MEASURES",
    "ROAD",
    "AttackAgreement",
    "AverageDrop",
    "Case",
    "CausesFound",
    "Compactness",
    "Curves",
    "EnergyPointingGame",
    "EvidenceAUC",
    "EvidenceMass",
    "Infidelity",
    "InsertionDeletion",
    "Leakage",
    "Measure",
    "Objects",
    "PointingGame",
    "Quantity",
    "Randomisation",
    "Sparseness",
    "Stability",
    "VisualAccuracy",
]
