"""From records to rankings: who is best at what, by how much, and whether the data can tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detxai.evaluate.results.records import Record, quantities_of
from detxai.evaluate.results.statistics import Floats, Interval, Resamples, Standing, standings
from detxai.metrics.inputs.case import Measure, Quantity

GROUPS: dict[str, tuple[str, ...]] = {
    "faithful": ("insertion_deletion", "average_drop", "road", "infidelity"),
    "evidence": ("evidence_mass", "evidence_auc", "causes_found"),
    "place": ("pointing_game", "energy", "visual_accuracy", "leakage", "compactness"),
}
OTHER = "other"
GROUP_NOTES = {
    "faithful": "how the score changes when the pixels of the map appear and vanish",
    "evidence": "whether the map lies on the known evidence",
    "place": "whether the map lies on the object; the box itself does too, and explains nothing",
    OTHER: "properties of the map itself",
}


def group_of(measure: str) -> str:
    """What a measure tests in a map: see ``GROUP_NOTES``.

    >>> group_of("energy"), group_of("sparseness")
    ('place', 'other')
    """
    return next((group for group, measures in GROUPS.items() if measure in measures), OTHER)


@dataclass(frozen=True)
class Ranking:
    """All methods at one quantity.

    Attributes:
        name: of the quantity; ``measure``: that it is of.
        about: the quantity.
        chance: what a map of random numbers gets, on average over these detections; NaN where nobody says.
        standings: the methods, the best first.
    """

    name: str
    measure: str
    about: Quantity
    chance: float
    standings: tuple[Standing, ...]

    @property
    def n(self) -> int:
        """How many detections every method has a value for."""
        return self.standings[0].interval.n

    def standing(self, method: str) -> Standing:
        """The standing of one method."""
        return next(standing for standing in self.standings if standing.method == method)


@dataclass(frozen=True)
class Total:
    """How a method does overall.

    Attributes:
        mean_rank: over the measures, each counted once, whatever the number of its quantities; NaN without any.
        ranks: the same over the measures of each group alone.
        seconds: of one detection.
    """

    method: str
    mean_rank: float
    ranks: Mapping[str, float]
    seconds: Interval


class Summary:
    """Rankings over the detections that every method has explained.

    Args:
        records: of all methods.
        measures: whose quantities.
        seed: of the bootstrap.
    """

    def __init__(self, records: Sequence[Record], measures: Sequence[Measure], seed: int = 0) -> None:
        self.methods = list(dict.fromkeys(record.method for record in records))
        by_detection: dict[tuple[int, int], dict[str, Record]] = {}
        for record in records:
            by_detection.setdefault(record.detection, {})[record.method] = record
        self.detections = [one for one in by_detection.values() if len(one) == len(self.methods)]
        self.n_dropped = len(by_detection) - len(self.detections)
        self.measures = list(measures)
        self.seed = seed
        first = [next(iter(by_method.values())) for by_method in self.detections]
        self.images = [f"{record.number}" for record in first]
        self.strata = [record.strata for record in first]
        self.resamples = Resamples.for_images(self.images, seed=seed)
        self.rankings = [ranking for ranking in self._rankings() if ranking.n]

    def values(self, quantity: str) -> dict[str, Floats]:
        """Method -> (D,) its values, the same detections in the same order."""
        return {
            method: np.array(
                [by_method[method].values.get(quantity, np.nan) for by_method in self.detections], dtype=np.float64
            )
            for method in self.methods
        }

    def ranking(self, quantity: str) -> Ranking:
        """The ranking by one quantity.

        Raises:
            LookupError: no such quantity was measured, or it applies to none of the detections.
        """
        for ranking in self.rankings:
            if ranking.name == quantity:
                return ranking
        raise LookupError(f"quantity must be one of {[ranking.name for ranking in self.rankings]}, got {quantity!r}")

    @property
    def groups(self) -> list[str]:
        """The groups of measures that rank anything here."""
        ranking = {group_of(ranking.measure) for ranking in self.rankings if ranking.about.better is not None}
        return [group for group in (*GROUPS, OTHER) if group in ranking]

    @property
    def totals(self) -> list[Total]:
        """Every method overall, the best mean rank first."""
        totals = []
        for method in self.methods:
            seconds = self.resamples.mean([by_method[method].seconds for by_method in self.detections])
            ranks = {
                group: _mean_rank(method, [r for r in self.rankings if group_of(r.measure) == group])
                for group in self.groups
            }
            totals.append(Total(method, _mean_rank(method, self.rankings), ranks, seconds))
        return sorted(totals, key=lambda total: (np.isnan(total.mean_rank), total.mean_rank))

    def by_stratum(self, kind: str) -> dict[str, dict[str, dict[str, Interval]]]:
        """Quantity -> stratum -> method -> mean, over the detections of each stratum of a kind that ``strata`` has."""
        names = [strata.get(kind, "") for strata in self.strata]
        table: dict[str, dict[str, dict[str, Interval]]] = {}
        for ranking in self.rankings:
            values = self.values(ranking.name)
            missing = np.isnan(np.stack(list(values.values()))).any(0)
            for stratum in dict.fromkeys(sorted(names, key=_order)):
                outside = missing | (np.array(names) != stratum)
                means = {m: self.resamples.mean(np.where(outside, np.nan, one)) for m, one in values.items()}
                table.setdefault(ranking.name, {})[stratum] = means
        return table

    @property
    def kinds_of_strata(self) -> list[str]:
        """What the detections are grouped by: those that fall into more than one group."""
        kinds: Iterable[str] = dict.fromkeys(kind for strata in self.strata for kind in strata)
        return [kind for kind in kinds if len({strata.get(kind) for strata in self.strata}) > 1]

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON can hold it; NaN is None."""
        return {
            "detections": len(self.detections),
            "images": len(set(self.images)),
            "methods": [
                {
                    "method": t.method, "mean_rank": number(t.mean_rank),
                    "ranks": {group: number(rank) for group, rank in t.ranks.items()}, "seconds": _interval(t.seconds),
                }
                for t in self.totals
            ],
            "quantities": [
                {
                    "quantity": ranking.name, "measure": ranking.measure, "better": ranking.about.better,
                    "chance": number(ranking.chance), "detections": ranking.n,
                    "standings": [_standing(standing) for standing in ranking.standings],
                }
                for ranking in self.rankings
            ],
            "strata": {
                kind: {
                    quantity: {
                        stratum: {method: _interval(interval) for method, interval in means.items()}
                        for stratum, means in strata.items()
                    }
                    for quantity, strata in self.by_stratum(kind).items()
                }
                for kind in self.kinds_of_strata
            },
        }  # fmt: skip

    def _rankings(self) -> Iterable[Ranking]:
        if not self.detections:
            return
        for name, (measure, quantity) in quantities_of(self.measures).items():
            standing = standings(self.values(name), quantity.better, self.resamples)
            yield Ranking(name, measure.name, quantity, self._chance(name, quantity), tuple(standing))

    def _chance(self, name: str, quantity: Quantity) -> float:
        if not isinstance(quantity.chance, str):
            return np.nan if quantity.chance is None else quantity.chance
        levels = next(iter(self.values(quantity.chance).values()))
        measured = ~np.isnan(np.stack(list(self.values(name).values()))).any(0) & ~np.isnan(levels)
        return float(levels[measured].mean()) if measured.any() else np.nan


def _mean_rank(method: str, rankings: Sequence[Ranking]) -> float:
    by_measure: dict[str, list[float]] = {}
    for ranking in rankings:
        rank = ranking.standing(method).rank
        if not np.isnan(rank):
            by_measure.setdefault(ranking.measure, []).append(rank)
    return float(np.mean([np.mean(ranks) for ranks in by_measure.values()])) if by_measure else np.nan


def _order(stratum: str) -> tuple[int, str]:
    known = ("small", "medium", "large", "unsure", "likely", "sure")
    return (known.index(stratum) if stratum in known else len(known)), stratum


def number(value: float) -> float | None:
    """A number as JSON can hold it."""
    return float(value) if np.isfinite(value) else None


def _interval(interval: Interval) -> dict[str, Any]:
    ends = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {**{name: number(value) for name, value in ends.items()}, "detections": interval.n}


def _standing(standing: Standing) -> Mapping[str, Any]:
    behind = standing.behind
    return {
        "method": standing.method,
        "rank": number(standing.rank),
        **_interval(standing.interval),
        "behind_best": None
        if behind is None
        else {**_interval(behind), "p_value": number(standing.p_value), "differs": standing.differs},
    }
