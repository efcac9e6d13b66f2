"""Exceptions in a long run: the failure of one item is recorded and skipped, an error in detxai ends the run."""

from __future__ import annotations

import dis
import logging
from pathlib import Path
from types import TracebackType

import torch

from detxai.runs.files import WriteError
from detxai.runs.interrupting import raise_if_interrupted

log = logging.getLogger(__name__)

MAX_INITIAL_FAILURES = 20  # so many items failing one after the other from the start are no accident
DEFECTS = (TypeError, AttributeError, NameError)  # of whoever wrote the code, where they were not raised on purpose
_PACKAGE = Path(__file__).parents[1]


def expect_item_failure(error: Exception) -> None:
    """Return where ``error`` is a failure of the item that was worked on; else raise it again.

    A file that is no image, an image that does not fit the memory, whatever a user's own detector raises: such are
    failures of their item, and the others go on. What is not the fault of an item ends the run: a file of the run that
    cannot be written, for the next could not be either, and a programming error in detxai, which is logged with its
    traceback. Ctrl-C is no ``Exception``; where a library made one of it, it stops the run all the same.
    """
    raise_if_interrupted()
    if isinstance(error, WriteError):
        raise error
    if isinstance(error, DEFECTS) and _raised_by_mistake(error.__traceback__):
        log.error("an error in detxai itself: please report it", exc_info=error)
        raise error


def _raised_by_mistake(trace: TracebackType | None) -> bool:
    """Whether the innermost code is detxai's own and has no ``raise`` there, which would say what is wrong and why."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    on_purpose = code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return _PACKAGE in Path(code.co_filename).parents and not on_purpose


def release_tensors(error: BaseException | None) -> None:
    """Release the tensors that a failed call holds, so that running out of memory does not fail the next item too."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def message(error: BaseException) -> str:
    """An error's message in one line; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def reason(error: BaseException) -> str:
    """An error in one line: its type and message, the first 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


class AllFailedError(ValueError):
    """The first items all failed: the request is at fault, not they."""


class FailureGuard:
    """Stops a run whose every item fails from the start.

    Args:
        items: what they are, for the message: ``images``.
    """

    def __init__(self, items: str = "images") -> None:
        self.items = items
        self.n_initial: int | None = 0  # failures so far; None once an item succeeded

    def succeeded(self) -> None:
        self.n_initial = None

    def failed(self, why: str) -> None:
        """Count a failure.

        Raises:
            AllFailedError: it is the twentieth, and nothing succeeded before.
        """
        if self.n_initial is None:
            return
        self.n_initial += 1
        if self.n_initial == MAX_INITIAL_FAILURES:
            raise AllFailedError(f"the first {MAX_INITIAL_FAILURES} {self.items} all failed; the last error: {why}")
