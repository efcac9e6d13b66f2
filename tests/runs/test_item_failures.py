"""What an item fails of is recorded; a defect, a full disk and Ctrl-C are no item's fault."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from detxai.detections import Detections
from detxai.geometry import box_iou
from detxai.images import load_image
from detxai.runs.failures import (
    MAX_INITIAL_FAILURES,
    AllFailedError,
    FailureGuard,
    expect_item_failure,
    release_tensors,
)
from detxai.runs.files import WriteError


def raised(call: Any, *given: Any) -> Exception:
    try:
        call(*given)
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


def users_detector() -> None:
    len(None)  # type: ignore[arg-type]


def no_memory() -> None:
    raise torch.OutOfMemoryError("99 GiB")


@pytest.mark.parametrize(
    ("call", "given", "kind"),
    [
        (load_image, ("no such file.png",), FileNotFoundError),
        (load_image, (3,), TypeError),  # raised on purpose: it says what was expected
        (users_detector, (), TypeError),  # not in detxai
        (no_memory, (), torch.OutOfMemoryError),
    ],
)
def test_failures_of_an_item(call: Any, given: tuple[Any, ...], kind: type[Exception]) -> None:
    error = raised(call, *given)
    assert isinstance(error, kind)
    expect_item_failure(error)


def test_a_defect_of_detxai_is_shown_and_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    error = raised(box_iou, "no", "boxes")
    assert type(error) in (TypeError, AttributeError)
    with caplog.at_level(logging.ERROR), pytest.raises(type(error)):
        expect_item_failure(error)
    assert "Traceback" in caplog.text
    assert "box_iou" in caplog.text


def test_a_full_disk_is_no_items_fault() -> None:
    with pytest.raises(WriteError, match="No space left"):
        expect_item_failure(WriteError(Path("out/a.json"), OSError(28, "No space left on device")))


def test_what_failed_lets_go_of_its_tensors() -> None:
    import weakref

    kept: list[weakref.ref[Detections]] = []

    def inner() -> None:
        held = Detections([[0, 0, 1, 1]], [0.5], [1])
        kept.append(weakref.ref(held))
        raise RuntimeError("out of memory")

    def outer() -> None:
        try:
            inner()
        except RuntimeError as error:
            raise ValueError("no batch size fits") from error

    error = raised(outer)
    assert kept[0]() is not None
    release_tensors(error)
    assert kept[0]() is None


def test_the_guard_counts_only_from_the_start() -> None:
    guard = FailureGuard()
    for number in range(MAX_INITIAL_FAILURES - 1):
        guard.failed(str(number))
    with pytest.raises(AllFailedError, match="the first 20 images all failed; the last error: bad"):
        guard.failed("bad")
    guard = FailureGuard()
    guard.succeeded()
    for number in range(100):
        guard.failed(str(number))
