"""Ctrl-C stops a run, at whatever moment it comes."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_AFTER = 0.05  # seconds: by then the callback that could not raise it is over


class _CtrlC:
    """Whether there was one since the outermost ``stops_on_ctrl_c`` began."""

    heard = False
    listening = False


@contextmanager
def stops_on_ctrl_c() -> Iterator[None]:
    """Inside, and at the end at the latest, a Ctrl-C stops the work, also where Python or a library drops it.

    Where it comes while Python runs a callback of a weak reference or a ``__del__``, Python prints "Exception ignored
    in" and goes on; inside an extension module it may come out as whatever that makes of an error (matplotlib's
    "Invalid bounding box"). Drawing an overlay spends so much of its time in such places that one Ctrl-C in ten was
    lost. So it is raised again after the first, ``raise_if_interrupted`` between the items of a run finds the others,
    and an error that ends the work after a Ctrl-C is taken for it, unless it is an ``OSError``: what a full disk did
    not keep has to be told.
    """
    handler = signal.getsignal(signal.SIGINT)
    if _CtrlC.listening or threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return

    def remember(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except KeyboardInterrupt:  # a user's own handler may have other plans
            _CtrlC.heard = True
            raise

    hook = sys.unraisablehook

    def raise_again(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            timer = threading.Timer(AGAIN_AFTER, _interrupt_if_listening)
            timer.daemon = True
            timer.start()
        else:
            hook(unraisable)

    _CtrlC.heard, _CtrlC.listening = False, True
    signal.signal(signal.SIGINT, remember)
    sys.unraisablehook = raise_again
    try:
        yield
        raise_if_interrupted()
    except Exception as error:
        if _CtrlC.heard and not isinstance(error, OSError):
            raise KeyboardInterrupt from error
        raise
    finally:
        _CtrlC.listening = False
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, handler)


def raise_if_interrupted() -> None:
    """Raise ``KeyboardInterrupt`` where there was a Ctrl-C that went no further."""
    if _CtrlC.listening and _CtrlC.heard:
        raise KeyboardInterrupt


def _interrupt_if_listening() -> None:
    if _CtrlC.listening:
        _thread.interrupt_main()
