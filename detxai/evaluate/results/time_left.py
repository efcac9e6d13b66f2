"""How long an evaluation will take, estimated from its first image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TimeLeft:
    """What is to be done after the first image of a run.

    Attributes:
        seconds: about how long, at what the first image took for each of its detections under each method.
        n_maps: maps to make and measure, of ``n_detections`` detections under ``n_methods`` methods.
    """

    seconds: float
    n_maps: int
    n_detections: int
    n_methods: int


def in_words(seconds: float) -> str:
    """A duration as somebody would say it.

    >>> in_words(40), in_words(150), in_words(9000)
    ('40 s', '2.5 min', '2.5 h')
    """
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{max(seconds, 1):.0f} s"
