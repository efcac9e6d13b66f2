"""The rows of a comparison of ways to ablate channels, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One way to ablate every channel.

    Attributes:
        name: what was run.
        seconds: for all channels; measured where ``sampled`` is 0, else extrapolated from that many channels.
        sampled: channels timed, 0 for all.
        error: largest difference of a target's score from the full tail's; None where the question is another one.
        rank_correlation: of the maps with the exact ones of all channels, the least over detections; None where not
            compared.
        mean_rank_correlation: the same, the mean.
        peak_mb: peak memory so far: of the device on CUDA, else of the whole process.
        note: what to know when reading the row.
    """

    name: str
    seconds: float
    sampled: int = 0
    error: float | None = None
    rank_correlation: float | None = None
    mean_rank_correlation: float | None = None
    peak_mb: float | None = None
    note: str = ""


def as_table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, each with its ratio to the first one timed: grad-cam, or else the full pass."""
    timed = [row for row in rows if row.seconds == row.seconds]
    base = timed[0]
    lines = [f"{'':<52} {'seconds':>9} {'x ' + base.name[:22]:>25} {'error':>9} {'rank, mean (least)':>18}"]
    for row in rows:
        seconds = f"{row.seconds:9.2f}" if row.seconds == row.seconds else "        -"
        ratio = f"{base.seconds / row.seconds:24.1f}x" if row.seconds == row.seconds else " " * 25
        error = "        -" if row.error is None else f"{row.error:9.1e}"
        rank = "-"
        if row.rank_correlation is not None and row.mean_rank_correlation is not None:
            rank = f"{row.mean_rank_correlation:.3f} ({row.rank_correlation:.3f})"
        lines.append(f"{row.name:<52} {seconds} {ratio} {error} {rank:>18}  {_remark(row)}".rstrip())
    return "\n".join(lines)


def _remark(row: Row) -> str:
    parts = [f"{row.sampled} channels timed" if row.sampled else "", row.note]
    parts += [f"peak {row.peak_mb:.0f} MB"] if row.peak_mb else []
    return "; ".join(part for part in parts if part)


def as_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON can hold them."""
    return [{k: (None if v != v else v) for k, v in asdict(row).items()} for row in rows]
