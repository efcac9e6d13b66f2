"""The findings of a report, gathered in one pass over the dataset with one part in memory at a time."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from detxai.coco.dataset import ExplainedBoxes, values_of
from detxai.coco.summaries.box_average import BoxAverage
from detxai.data.error_kinds import FALSE_POSITIVES, KINDS

EVERY_CLASS = ""
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
class Findings:
    """What a pass over the rows gathers.

    Attributes:
        averages: by kind and class, and by kind over every class (``""``).
        found: evidence outside the box of true positives, by class.
        wrong: evidence outside the box of false positives, by class.
        stages: how many of the misses explained were lost at which stage.
        unreproduced: how many predictions from a file the detector does not make now, and of how many.
        worst: for each kind, the rows that cost most AP, worst first.
        flat: rows whose map is empty (no positive evidence), by kind: they are in no average and no share.
        n: rows.
    """

    averages: dict[tuple[str, str], BoxAverage] = field(default_factory=dict)
    found: dict[str, Share] = field(default_factory=dict)
    wrong: dict[str, Share] = field(default_factory=dict)
    stages: Counter[str] = field(default_factory=Counter)
    unreproduced: tuple[int, int] = (0, 0)
    worst: dict[str, list[int]] = field(default_factory=dict)
    flat: Counter[str] = field(default_factory=Counter)
    n: int = 0

    def add(self, row: Row) -> None:
        self.n += 1
        if row["stage"] is not None:
            self.stages[row["stage"]] += 1
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


def gather(explained: ExplainedBoxes, most: int, tick: Callable[[int], object] = lambda n: None) -> Findings:
    """The findings of a dataset.

    Args:
        explained: the dataset.
        most: rows of each kind in ``worst``.
        tick: called with 1 after each row.
    """
    findings = Findings()
    heaps: dict[str, list[tuple[float, float, int]]] = {kind: [] for kind in KINDS}
    for index, row in enumerate(explained.rows()):
        findings.add(row)
        # true positives cost nothing: the surest are shown
        rank = (row["ap_loss"] or 0.0, row["score"] or 0.0, -index)
        heap = heaps[row["kind"]]
        heapq.heappush(heap, rank) if len(heap) < most else heapq.heappushpop(heap, rank)
        tick(1)
    findings.worst = {kind: [-place for _, _, place in sorted(heap, reverse=True)] for kind, heap in heaps.items()}
    return findings
