"""A Ctrl-C that comes where Python cannot raise it is not lost."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from detxai.runs.failures import expect_item_failure
from detxai.runs.interrupting import raise_if_interrupted, stops_on_ctrl_c


def ctrl_c(*given: Any) -> None:
    signal.raise_signal(signal.SIGINT)
    time.sleep(0)


class Thing:
    """Is interrupted while it is deleted."""

    def __del__(self) -> None:
        ctrl_c()


def in_a_deletion() -> None:
    Thing()


def in_a_callback() -> None:
    kept: list[Any] = [lambda: None]
    reference = weakref.ref(kept[0], ctrl_c)
    kept.clear()
    assert reference() is None


def in_a_library() -> None:
    try:
        ctrl_c()
    except BaseException as error:
        raise ValueError("Invalid affine transformation matrix") from error


@pytest.mark.parametrize("drop", [in_a_deletion, in_a_callback])
def test_it_is_raised_again(drop: Callable[[], None]) -> None:
    start = time.monotonic()

    def work() -> None:
        with stops_on_ctrl_c():
            drop()
            while time.monotonic() < start + 10:
                time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() < start + 9


def test_it_is_raised_at_the_end_where_the_work_is_over_sooner() -> None:
    with pytest.raises(KeyboardInterrupt), stops_on_ctrl_c():
        in_a_deletion()


class Boxes:
    """Is interrupted while an extension module of matplotlib reads it, which makes a ``ValueError`` of that."""

    def __array__(self, *given: Any, **named: Any) -> np.ndarray[Any, Any]:
        ctrl_c()
        return np.eye(2)


def in_matplotlib() -> None:
    compiled: Any = importlib.import_module("matplotlib._path")
    compiled.count_bboxes_overlapping_bbox(Boxes(), np.zeros((1, 2, 2)))


@pytest.mark.parametrize("drop", [in_a_library, in_matplotlib])
def test_what_a_library_made_of_it_ends_the_work_as_ctrl_c_does(drop: Callable[[], None]) -> None:
    with pytest.raises(ValueError, match="Invalid"), contextlib.suppress(KeyboardInterrupt):
        drop()
    with pytest.raises(KeyboardInterrupt) as raised, stops_on_ctrl_c():
        drop()
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_full_disk_is_told_of_after_a_ctrl_c_too() -> None:
    def work() -> None:
        with stops_on_ctrl_c():
            with contextlib.suppress(KeyboardInterrupt):
                ctrl_c()
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        work()


def test_without_a_ctrl_c_an_error_stays_what_it_is() -> None:
    with pytest.raises(ValueError, match="mine"), stops_on_ctrl_c():
        raise ValueError("mine")


def test_what_a_library_made_of_it_is_no_failure_of_the_item() -> None:
    def work() -> None:
        with stops_on_ctrl_c():
            try:
                in_a_library()
            except ValueError as error:
                expect_item_failure(error)

    with pytest.raises(KeyboardInterrupt):
        work()


def test_between_items_one_that_was_swallowed_is_found() -> None:
    done: list[int] = []

    def work() -> Iterator[int]:
        with stops_on_ctrl_c():
            for item in range(5):
                if item == 2:
                    with contextlib.suppress(BaseException):
                        ctrl_c()
                done.append(item)
                raise_if_interrupted()
                yield item

    with pytest.raises(KeyboardInterrupt):
        list(work())
    assert done == [0, 1, 2]


def test_a_users_own_handler_decides() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        with stops_on_ctrl_c():
            ctrl_c()
            raise_if_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [signal.SIGINT]


def test_everything_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    before = sys.unraisablehook, signal.getsignal(signal.SIGINT)

    class Broken:
        def __del__(self) -> None:
            raise ValueError

    with stops_on_ctrl_c(), stops_on_ctrl_c():
        Broken()
    assert [one.exc_type for one in seen] == [ValueError]
    assert (sys.unraisablehook, signal.getsignal(signal.SIGINT)) == before
    raise_if_interrupted()
