"""Delta debugging: a subset that still does it, and from which no member can be dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

Sets = Sequence[Sequence[int]]
Test = Callable[[Sets], Sequence[bool]]  # for each of several sets, whether it does it


def minimal_set(order: Sequence[int], test: Test) -> list[int]:
    """A subset of ``order`` that passes the test, while no subset with one member less does.

    It need not be the smallest such set: finding that takes exponentially many tests. First the shortest prefix of
    ``order`` that passes is looked for, so that the members which matter most are tried first; from it, ever smaller
    parts are dropped as long as what is left passes. The test need not be monotone.

    Args:
        order: the members, those expected to matter most first; together they pass.
        test: asked about several sets at once.

    Raises:
        ValueError: all members together do not pass.

    Source: Zeller & Hildebrandt, 2002, Simplifying and isolating failure-inducing input (IEEE TSE), ddmin, which ends
    at a 1-minimal set. Differs in the prefix, and in testing all parts of one size at once.

    >>> minimal_set([3, 1, 2, 0], lambda sets: [{1, 2} <= set(members) for members in sets])
    [1, 2]
    """
    empty, whole = test([[], list(order)])
    if not whole:
        raise ValueError(f"the test must pass for all {len(order)} members together, and did not")
    if empty:
        return []
    return _reduced(_shortest_prefix(order, test), test)


def _shortest_prefix(order: Sequence[int], test: Test) -> list[int]:
    """A prefix that passes, found by doubling and halving; the shortest, where longer ones pass too."""
    sizes = [2**power for power in range(len(order).bit_length()) if 2**power < len(order)]
    passes = [*test([order[:size] for size in sizes]), True]
    first = passes.index(True)
    low, high = ([0, *sizes][first], [*sizes, len(order)][first])
    while high - low > 1:
        middle = (low + high) // 2
        (passed,) = test([order[:middle]])
        low, high = (low, middle) if passed else (middle, high)
    return list(order[:high])


def _reduced(members: list[int], test: Test) -> list[int]:
    """ddmin: no member of what it returns can be dropped."""
    n_parts = 2
    while len(members) > 1:
        parts = _split(members, n_parts)
        rests = [[member for member in members if member not in part] for part in map(set, parts)]
        smaller = [*parts, *rests] if n_parts > 2 else parts  # of two parts, each is what is left without the other
        passed = [place for place, passes in enumerate(test(smaller)) if passes]
        if passed:
            members = smaller[passed[0]]
            n_parts = 2 if passed[0] < len(parts) else max(n_parts - 1, 2)
        elif n_parts == len(members):
            break
        else:
            n_parts = min(2 * n_parts, len(members))
        n_parts = min(n_parts, max(len(members), 2))
    return members


def _split(members: list[int], n: int) -> list[list[int]]:
    """``members`` in n parts of nearly equal size, none empty where there are as many.

    >>> _split([1, 2, 3, 4, 5], 2)
    [[1, 2], [3, 4, 5]]
    """
    bounds = [len(members) * part // n for part in range(n + 1)]
    return [members[start:end] for start, end in pairwise(bounds) if end > start]
