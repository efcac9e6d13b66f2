"""Progress bars: how they look, when they are shown, and how a program follows them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from tqdm.auto import tqdm

OnStep: TypeAlias = Callable[[int, int, str], object]
"""Called with how many steps are done, of how many at most, and what is being done."""

_FOLLOWER: ContextVar[OnStep | None] = ContextVar("_FOLLOWER", default=None)


def hides_bar(progress: bool | None) -> bool:
    """Whether to hide a bar: as ``progress`` says; None: where standard error is no terminal."""
    return not sys.stderr.isatty() if progress is None else not progress


def progress_bar(progress: bool | None, total: int, doing: str, unit: str) -> tqdm:
    """A bar for the steps of one call, gone when it is done: see ``hides_bar`` for ``progress``."""
    settings: dict[str, Any] = {"total": total, "unit": unit, "disable": hides_bar(progress), "leave": False}
    on_step = _FOLLOWER.get()
    return tqdm(desc=doing, **settings) if on_step is None else _FollowedBar(on_step, doing, **settings)


@contextmanager
def following(on_step: OnStep) -> Iterator[None]:
    """Inside, and in this thread alone, every ``progress_bar`` also calls ``on_step``, hidden ones too.

    For programs that show progress in their own way. Where ``on_step`` raises ``KeyboardInterrupt``, the work ends as
    with Ctrl-C.

    >>> with following(lambda done, total, doing: print(doing, done, "of", total)):
    ...     with progress_bar(False, 8, "masking", "mask") as bar:
    ...         bar.update(2)
    masking 2 of 8
    """
    token = _FOLLOWER.set(on_step)
    try:
        yield
    finally:
        _FOLLOWER.reset(token)


class _FollowedBar(tqdm):
    def __init__(self, on_step: OnStep, doing: str, **settings: Any) -> None:
        super().__init__(desc=doing, **settings)
        self._on_step, self._doing, self._n_done = on_step, doing, 0

    def update(self, n: float | None = 1) -> bool | None:
        shown: bool | None = super().update(n)
        self._n_done += int(n or 0)
        self._on_step(self._n_done, int(self.total), self._doing)
        return shown
