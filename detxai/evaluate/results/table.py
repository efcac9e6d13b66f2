"""The rankings as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detxai.evaluate.results.statistics import FEWEST_IMAGES, LEVEL, Interval, Standing
from detxai.evaluate.results.summary import GROUP_NOTES, Ranking, Summary

LEGEND = (
    "means over the same detections for every method, with 95 % bootstrap intervals (whole images drawn);\n"
    f"* the best is better beyond chance (p <= {LEVEL} by Holm's correction over all pairs; "
    f"never below {FEWEST_IMAGES} images)"
)


def rank_table(summary: Summary) -> str:
    """Every method overall, then the methods at each quantity that can be better or worse, the best first."""
    n_images = len(set(summary.images))
    head = f"{len(summary.detections)} detections of {n_images} images; {LEGEND}"
    blocks = [_block(ranking) for ranking in summary.rankings if ranking.about.better is not None]
    return "\n\n".join([head, _totals(summary), *blocks])


def _totals(summary: Summary) -> str:
    """Mean ranks, over all measures and within each group of them, and the cost."""
    rows = [["method", "mean rank", *summary.groups, "s per detection"]]
    for total in summary.totals:
        ranks = [as_rank(total.ranks[group]) for group in summary.groups]
        rows.append([total.method, as_rank(total.mean_rank), *ranks, f"{total.seconds.mean:.3g}"])
    notes = [f"{group}: {GROUP_NOTES[group]}" for group in summary.groups]
    return "\n".join([aligned(rows), *notes])


def as_rank(rank: float) -> str:
    """A mean rank in a table: ``1.5``, or a dash where there is none."""
    return "-" if np.isnan(rank) else f"{rank:.1f}"


def _block(ranking: Ranking) -> str:
    chance = "" if np.isnan(ranking.chance) else f", chance {ranking.chance:.3f}"
    head = f"{ranking.name} ({ranking.about.better} is better{chance}; {ranking.n} detections)"
    return "\n".join([head, aligned([_cells(standing) for standing in ranking.standings], indent="  ")])


def _cells(standing: Standing) -> list[str]:
    behind = standing.behind
    cells = [f"{standing.rank:g}", standing.method, between(standing.interval)]
    return cells if behind is None else [*cells, f"behind by {between(behind)}{' *' if standing.differs else ''}"]


def between(interval: Interval) -> str:
    """A mean and its interval, where there is one.

    >>> between(Interval(0.5, 0.25, 0.75, n=4))
    '0.500 [0.250, 0.750]'
    """
    mean = f"{interval.mean:.3f}"
    return mean if np.isnan(interval.low) else f"{mean} [{interval.low:.3f}, {interval.high:.3f}]"


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Rows of cells as columns of text.

    >>> print(aligned([["a", "b"], ["ccc", "d"]]))
    a    b
    ccc  d
    """
    n_columns = max(len(row) for row in rows)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(n_columns)]
    lines = (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
