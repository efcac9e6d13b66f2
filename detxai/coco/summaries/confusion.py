"""Which annotated class was predicted as which: a confusion matrix at the operating point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from detxai.data.error_kinds import LabelledBox

NOTHING = ""  # in place of a class: nothing annotated, or nothing predicted
Pair = tuple[str, str]  # annotated class, predicted class


class Confusion:
    """Counts of pairs of annotated and predicted class.

    Every prediction that counts is in one cell: in that of the annotation that it found or was of another class than;
    in the row of ``NOTHING`` where it is misplaced, a duplicate or on the background. An annotation that no prediction
    found or misclassified is in the column of ``NOTHING``.

    Args:
        boxes: at the operating point, as ``boxes.parquet`` has them.

    Attributes:
        counts: (annotated, predicted) -> how many.
    """

    def __init__(self, boxes: Sequence[LabelledBox]) -> None:
        self._misclassified = frozenset(box.prediction_id for box in boxes if box.kind == "classification")
        self.counts = Counter(pair for box in boxes if (pair := self.pair_of(box)) is not None)

    def pair_of(self, box: LabelledBox) -> Pair | None:
        """The annotated and the predicted class that a box counts for; None for one that counts for none."""
        if box.kind == "missed":
            return None if box.covered_by in self._misclassified else (box.category, NOTHING)
        if box.kind in ("true_positive", "classification"):
            return box.annotation_category or NOTHING, box.category
        if box.kind in ("localisation", "both", "duplicate", "background"):
            return NOTHING, box.category
        return None

    def classes(self, most: int) -> list[str]:
        """The ``most`` classes with the most mistakes, worst first; then those with fewer, by name."""
        mistakes: Counter[str] = Counter()
        for (annotated, predicted), n in self.counts.items():
            for name in {annotated, predicted} - {NOTHING}:
                mistakes[name] += n * (annotated != predicted)
        return sorted(mistakes, key=lambda name: (-mistakes[name], name))[:most]

    def confused(self) -> list[tuple[Pair, int]]:
        """Every pair off the diagonal, most frequent first."""
        pairs = [(pair, n) for pair, n in self.counts.items() if pair[0] != pair[1]]
        return sorted(pairs, key=lambda item: (-item[1], item[0]))
