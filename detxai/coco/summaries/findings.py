"""The findings of a report, gathered in one pass over the dataset with one part in memory at a time."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from detxai.coco.dataset import ExplainedBoxes, values_of
from detxai.coco.summaries.box_average import BoxAverage
from detxai.coco.summaries.confusion import Confusion, Pair
from detxai.data.error_kinds import FALSE_POSITIVES, KINDS, LabelledBox

EVERY_CLASS = ""
CASES = 2  # of each pair of classes that are confused
Row = dict[str, Any]


@dataclass
class Share:
    """The mean share of the evidence outside the box, and that of a flat map."""

    n: int = 0
    outside: float = 0.0
    chance: float = 0.0

    def add(self, row: Row) -> None:
        self.n += 1
        self.outside += (1 - row["energy_box"] - self.outside) / self.n
        self.chance += (1 - row["energy_box_chance"] - self.chance) / self.n


@dataclass
class NearestCandidates:
    """Of the misses lost at one stage: how many, and the mean score and IoU of the candidates that came nearest."""

    n: int = 0
    score: float = 0.0
    iou: float = 0.0

    def add(self, row: Row) -> None:
        self.n += 1
        self.score += (row["candidate_score"] - self.score) / self.n
        self.iou += (row["candidate_iou"] - self.iou) / self.n


@dataclass
class Findings:
    """What a pass over the rows gathers.

    Attributes:
        averages: by kind and class, and by kind over every class (``""``).
        found: evidence outside the box of true positives, by class.
        wrong: evidence outside the box of false positives, by class.
        stages: the misses explained, by the stage at which they were lost.
        unreproduced: how many predictions from a file the detector does not make now, and of how many.
        worst: for each kind, the rows that cost most AP, worst first.
        of_pairs: for each pair of annotated and predicted class that differ, the rows that cost most AP.
        flat: rows whose map is empty (no positive evidence), by kind: they are in no average and no share.
        n: rows.
    """

    averages: dict[tuple[str, str], BoxAverage] = field(default_factory=dict)
    found: dict[str, Share] = field(default_factory=dict)
    wrong: dict[str, Share] = field(default_factory=dict)
    stages: dict[str, NearestCandidates] = field(default_factory=dict)
    unreproduced: tuple[int, int] = (0, 0)
    worst: dict[str, list[int]] = field(default_factory=dict)
    of_pairs: dict[Pair, list[int]] = field(default_factory=dict)
    flat: Counter[str] = field(default_factory=Counter)
    n: int = 0

    def add(self, row: Row) -> None:
        self.n += 1
        if row["stage"] is not None:
            self.stages.setdefault(row["stage"], NearestCandidates()).add(row)
        if row["reproduced"] is not None:
            gone, n = self.unreproduced
            self.unreproduced = (gone + (not row["reproduced"]), n + 1)
        values = values_of(row)
        if values.max() <= 0:
            self.flat[row["kind"]] += 1
            return
        for category in (row["category"], EVERY_CLASS):
            self.averages.setdefault((row["kind"], category), BoxAverage()).add(values, row["box"])
        if row["kind"] == "true_positive":
            self.found.setdefault(row["category"], Share()).add(row)
        elif row["kind"] in FALSE_POSITIVES:
            self.wrong.setdefault(row["category"], Share()).add(row)


def gather(
    explained: ExplainedBoxes, most: int, confusion: Confusion, tick: Callable[[int], object] = lambda n: None
) -> Findings:
    """The findings of a dataset.

    Args:
        explained: the dataset.
        most: rows of each kind in ``worst``.
        confusion: of all boxes of the run.
        tick: called with 1 after each row.
    """
    findings = Findings()
    by_kind: dict[str, _Worst] = {kind: _Worst(most) for kind in KINDS}
    by_pair: dict[Pair, _Worst] = {}
    for index, row in enumerate(explained.rows()):
        findings.add(row)
        by_kind[row["kind"]].add(row, index)
        pair = confusion.pair_of(LabelledBox.from_row(row))
        if pair is not None and pair[0] != pair[1]:
            by_pair.setdefault(pair, _Worst(CASES)).add(row, index)
        tick(1)
    findings.worst = {kind: worst.indices() for kind, worst in by_kind.items()}
    findings.of_pairs = {pair: worst.indices() for pair, worst in by_pair.items()}
    return findings


class _Worst:
    """Of many rows, the ``most`` that cost most AP; true positives cost nothing: of them the surest."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._heap: list[tuple[float, float, int]] = []

    def add(self, row: Row, index: int) -> None:
        rank = (row["ap_loss"] or 0.0, row["score"] or 0.0, -index)
        heapq.heappush(self._heap, rank) if len(self._heap) < self.most else heapq.heappushpop(self._heap, rank)

    def indices(self) -> list[int]:
        """Worst first."""
        return [-place for _, _, place in sorted(self._heap, reverse=True)]
