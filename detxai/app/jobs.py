"""The work of explaining one box, in a thread of its own: seen while it goes on, stopped, and what there is kept."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from detxai.adapters.detector import Detector
from detxai.app.sentences import sentence
from detxai.detections import Detections
from detxai.explain import Method, explain, setting_names
from detxai.explanation import Explanation
from detxai.metrics import Case, Curves, InsertionDeletion
from detxai.progress import following
from detxai.runs.failures import release_tensors

log = logging.getLogger("detxai")

Status = Literal["waiting", "running", "measuring", "done", "stopped", "failed"]
SHOWING_FIRST = 0.4  # seconds that the work rests after its first map, so that the page and the browser draw it at once
ENDED: tuple[Status, ...] = ("done", "stopped", "failed")


@dataclass(eq=False)
class MethodResult:
    """What a method has come to.

    Attributes:
        method: with its settings.
        status: how far it is.
        explanation: the map so far; None: none yet.
        n_rounds: how many maps there were so far.
        steps: done, and at most; None: not told.
        curves: insertion and deletion; None: not measured.
        began, seconds: when it began, and how long it took.
        first_seconds: until its first map.
        error: a sentence, where it failed.
    """

    method: Method
    status: Status = "waiting"
    explanation: Explanation | None = None
    n_rounds: int = 0
    steps: tuple[int, int] | None = None
    curves: Curves | None = None
    began: float = 0.0
    seconds: float = 0.0
    first_seconds: float | None = None
    error: str = ""

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def seconds_left(self) -> float | None:
        """By the steps so far; None: not known."""
        if self.status != "running" or self.steps is None or not self.steps[0] > 0:
            return None
        done, most = self.steps
        return (time.perf_counter() - self.began) * max(0, most - done) / done

    @property
    def is_start(self) -> bool:
        """Whether the map so far is what a method begins with, before it asked anything about parts of the image."""
        details = {} if self.explanation is None else self.explanation.details
        return details.get("kept") == "start" and "n_draws" not in details

    @property
    def agreement(self) -> dict[str, float]:
        """How well others of the map's random parts would correlate with these, as far as the method tells: by part."""
        details = {} if self.explanation is None else self.explanation.details
        found = {}
        if "expected_correlation_of_masks" in details:
            found["soft masks"] = float(details["expected_correlation_of_masks"])
        if "expected_correlation" in details and details.get("n_draws", 2) >= 2:
            found["draws" if "n_draws" in details else "masks"] = float(details["expected_correlation"])
        return found


@dataclass(eq=False)
class Job:
    """Some methods explain one box, one after the other.

    Attributes:
        detector: what is explained.
        image: (H, W, 3) uint8.
        detection: the box, of length 1.
        results: a result for each method, filled while the work goes on.
        wants_curves: whether to measure insertion and deletion too.
    """

    detector: Detector
    image: npt.NDArray[np.uint8]
    detection: Detections
    results: Sequence[MethodResult]
    wants_curves: bool = True
    _stop: threading.Event = field(default_factory=threading.Event)
    _has_map: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="detxai-explain", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> None:
        """Until the work has ended, but at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def wait_for_map(self, seconds: float) -> None:
        """Until the first map is there or the work has ended, but at most so long."""
        self._has_map.wait(seconds)

    def stop(self) -> None:
        """End the work as Ctrl-C does: at the next step, or, in a method without a progress bar, at once."""
        if not self.is_running or self._stop.is_set():
            return
        self._stop.set()
        running = next((one for one in self.results if one.status == "running"), None)
        thread = self._thread
        tells_steps = running is not None and "progress" in setting_names(running.method.name)
        if running is not None and not tells_steps and thread is not None and thread.ident is not None:
            # the same exception that Ctrl-C raises in the main thread: nothing else reaches a method that tells nothing
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt)
            )

    def _work(self) -> None:
        for result in self.results:
            try:
                if self._stop.is_set():
                    result.status = "stopped"
                    continue
                self._explain(result)
                self._measure(result)
            except KeyboardInterrupt:
                result.status = "stopped"
            except Exception as error:
                log.info("%s failed", result.method.name, exc_info=error)
                result.status, result.error = "failed", sentence(error)
                release_tensors(error)
        self._has_map.set()

    def _explain(self, result: MethodResult) -> None:
        def on_step(done: int, most: int, doing: str) -> None:
            result.steps = done, most
            if self._stop.is_set():
                raise KeyboardInterrupt

        def on_round(found: list[Explanation]) -> None:
            is_first = not self._has_map.is_set()
            self._take(result, found[0])
            if is_first:
                self._stop.wait(SHOWING_FIRST)
            if self._stop.is_set():
                raise KeyboardInterrupt

        result.status, result.began = "running", time.perf_counter()
        method: Any = result.method
        try:
            with following(on_step):
                if getattr(type(method), "in_rounds", False):
                    found = method(self.detector, self.image, self.detection, on_round=on_round)
                else:
                    found = explain(self.detector, self.image, method, self.detection)
            self._take(result, found[0])
        finally:
            result.seconds = time.perf_counter() - result.began
        result.status = "stopped" if found[0].partial else "done"

    def _take(self, result: MethodResult, explanation: Explanation) -> None:
        if result.first_seconds is None:
            result.first_seconds = time.perf_counter() - result.began
        result.explanation = explanation
        result.n_rounds += 1
        self._has_map.set()

    def _measure(self, result: MethodResult) -> None:
        if not self.wants_curves or self._stop.is_set() or result.explanation is None:
            return
        ended, result.status = result.status, "measuring"
        try:
            case = Case.from_explanations(self.detector, [result.explanation], self.detection)
            result.curves = InsertionDeletion().curves(case)
        except ValueError as error:  # a flat map cropped to its box, such as a baseline's
            log.info("no curves of %s: %s", result.method.name, error)
        finally:
            result.status = ended
