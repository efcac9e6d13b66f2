"""How much of the training time explaining may take, kept by measuring."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

SETTLING = 0.5  # weight of the newest measurement of a cost: first calls are slow, and machines get busy
Piece = TypeVar("Piece")


class TimeBudget:
    """An account: training earns time, explaining spends it.

    Every second of training earns ``share`` seconds. All that explaining takes is paid from the one account: looking,
    writing, logging, and what surrounds them. The cost of each kind of work is measured, and work begins only where
    the account pays for what it will probably cost, beside what is reserved for the end of training. What an epoch
    does not use is kept for the next.

    The very first piece is done on trust: without it nothing is known, and nothing would be seen of a short training.
    So is the first piece of any other kind, once the account is out of debt. A debt is paid off by waiting.

    Args:
        share: of the training time, such as 0.02; None: no limit.
        clock: seconds, ever rising.

    Attributes:
        earned: seconds so far.
        spent: seconds so far; of ``work`` that is over.

    Raises:
        ValueError: ``share`` is not positive.

    >>> now = 0.0
    >>> budget = TimeBudget(0.1, clock=lambda: now)
    >>> now = 100.0  # an epoch of training went by, and earned 10 seconds
    >>> with budget.work():
    ...     with budget.piece("map"):
    ...         now = 106.0
    ...     budget.affords("map")
    False
    >>> budget.earned, budget.spent, budget.wait("map")
    (10.0, 6.0, 20.0)
    """

    def __init__(self, share: float | None = 0.02, *, clock: Callable[[], float] = time.perf_counter) -> None:
        if share is not None and not share > 0:  # also where it is NaN
            raise ValueError(f"budget must be a positive share of the training time, or None, got {share}")
        self.share = share
        self.earned = 0.0
        self.spent = 0.0
        self._clock = clock
        self._costs: dict[str, float] = {}  # of one unit of each kind of work
        self._times: dict[str, float] = {}  # what each kind has had so far
        self._reserved: dict[str, int] = {}  # units of work that the end of training will bring
        self._rest: float | None = None  # what a time of work takes beside its pieces
        self._training_since = clock()
        self._working_since: float | None = None
        self._in_pieces = 0.0

    def training_starts(self) -> None:
        """Training time counts from now: what came before was no training."""
        self._training_since = self._clock()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Training stands still inside; all the time inside is spent."""
        self._working_since, self._in_pieces = self._clock(), 0.0
        self.earned += (self.share or 0.0) * (self._working_since - self._training_since)
        try:
            yield
        finally:
            self._training_since = self._clock()
            took = self._training_since - self._working_since
            self.spent += took
            if self._in_pieces:
                self._rest = _settled(self._rest, took - self._in_pieces)
            self._working_since = None

    def affords(self, kind: str, units: int = 1) -> bool:
        """Whether so much of this kind of work fits into what was earned, beside what is reserved for others."""
        return self.share is None or self._lacking(kind, units) < 0

    def wait(self, kind: str) -> float:
        """Seconds of training until a piece of this kind is affordable."""
        return 0.0 if self.share is None else max(self._lacking(kind, 1), 0.0) / self.share

    def reserve(self, kind: str, units: int) -> None:
        """Keep back time for so much work of this kind, which will have to be done at the end of training."""
        self._reserved[kind] = units

    def least_served(self, kinds: Iterable[str]) -> str:
        """The kind of work that has had the least time so far."""
        return min(kinds, key=lambda kind: self._times.get(kind, 0.0))

    def schedule(self, waiting: Mapping[str, Iterable[Piece]]) -> Generator[Piece]:
        """The pieces of work to do now, one after the other, each measured until the next is asked for.

        The kinds share the time evenly: the one that has had the least comes first. Where the account cannot pay for
        its piece, the others wait too: else cheap work would for ever eat up what dear work costs. The very first
        piece of all comes unasked: whoever prepares for it has asked ``affords`` for the ``least_served`` kind.
        """
        left = {kind: iter(pieces) for kind, pieces in waiting.items()}
        first = True
        while left:
            kind = self.least_served(left)
            if not first and not self.affords(kind):
                return
            for piece in left[kind]:
                with self.piece(kind):
                    yield piece
                first = False
                break
            else:
                del left[kind]

    @contextmanager
    def piece(self, kind: str, units: int = 1) -> Iterator[None]:
        """Measure what so many units of this kind cost."""
        start = self._clock()
        try:
            yield
        finally:
            took = self._clock() - start
            self._in_pieces += took
            self._times[kind] = self._times.get(kind, 0.0) + took
            self._costs[kind] = _settled(self._costs.get(kind), took / units)

    def _lacking(self, kind: str, units: int) -> float:
        """Seconds to earn before this much work is paid for; negative where some are left over."""
        expected = units * self._costs.get(kind, 0.0)
        expected += sum(n * self._costs.get(other, 0.0) for other, n in self._reserved.items() if other != kind)
        so_far, rest = self.spent, self._rest or 0.0
        if self._working_since is not None:
            working = self._clock() - self._working_since
            so_far += working
            rest = max(rest - (working - self._in_pieces), 0.0)
        return so_far + expected + rest - self.earned


def _settled(known: float | None, newest: float) -> float:
    """What the next measurement will probably be.

    >>> _settled(None, 4.0), _settled(8.0, 4.0)
    (4.0, 6.0)
    """
    return newest if known is None else SETTLING * newest + (1 - SETTLING) * known
