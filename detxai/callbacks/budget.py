"""How much of the training time explaining may take, kept by measuring."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SETTLING = 0.5  # weight of the newest measurement of a cost: first calls are slow, and machines get busy


class TimeBudget:
    """A ledger: training earns time, explaining spends it.

    Every second of training earns ``share`` seconds. What an epoch does not use is kept for the next, and what it
    overdraws is paid back by waiting, so that the share holds over the run. The cost of each kind of work is
    measured; before anything was measured one piece is done on trust.

    Args:
        share: of the training time, such as 0.02; None: no limit.
        clock: seconds, ever rising.

    Raises:
        ValueError: ``share`` is not positive.

    >>> now = 0.0
    >>> budget = TimeBudget(0.1, clock=lambda: now)
    >>> now = 100.0  # an epoch of training went by, and earned 10 seconds
    >>> with budget.work():
    ...     with budget.piece("panel"):
    ...         now = 106.0
    ...     budget.affords("panel")
    False
    >>> budget.earned, budget.spent
    (10.0, 6.0)
    """

    def __init__(self, share: float | None = 0.02, *, clock: Callable[[], float] = time.perf_counter) -> None:
        if share is not None and not share > 0:  # also where it is NaN
            raise ValueError(f"budget must be a positive share of the training time, or None, got {share}")
        self.share = share
        self.earned = 0.0
        self.spent = 0.0
        self._clock = clock
        self._costs: dict[str, float] = {}
        self._training_since = clock()
        self._working_since: float | None = None

    def training_starts(self) -> None:
        """Training time counts from now: what came before was no training."""
        self._training_since = self._clock()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Training stands still inside; all the time inside is spent."""
        self._working_since = self._clock()
        self.earned += (self.share or 0.0) * (self._working_since - self._training_since)
        try:
            yield
        finally:
            self._training_since = self._clock()
            self.spent += self._training_since - self._working_since
            self._working_since = None

    def affords(self, kind: str) -> bool:
        """Whether one more piece of this kind of work fits into what was earned."""
        if self.share is None:
            return True
        spent = self.spent + (0.0 if self._working_since is None else self._clock() - self._working_since)
        return spent + self._costs.get(kind, 0.0) < self.earned

    @contextmanager
    def piece(self, kind: str) -> Iterator[None]:
        """Measure what one piece of this kind costs."""
        start = self._clock()
        try:
            yield
        finally:
            took = self._clock() - start
            self._costs[kind] = took + (1 - SETTLING) * (self._costs.get(kind, took) - took)
