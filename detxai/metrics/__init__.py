"""Measures of an explanation, one file each.

>>> sorted(MEASURES["energy"].quantities)
['energy_box', 'energy_box_chance', 'energy_mask', 'energy_mask_chance']
"""

from detxai.metrics.case import Case, Measure, Objects, Quantity
from detxai.metrics.energy import EnergyPointingGame
from detxai.metrics.pointing_game import PointingGame

MEASURES: dict[str, type[Measure]] = {
    measure.name: measure
    for measure in (
        PointingGame,
        EnergyPointingGame,
    )
}

__all__ = [
    "MEASURES",
    "Case",
    "EnergyPointingGame",
    "Measure",
    "Objects",
    "PointingGame",
    "Quantity",
]
