"""What one visitor has: a folder for uploads, a detector of their own, explanations so far, the work going on."""

from __future__ import annotations

import shutil
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detxai.adapters.detector import Detector
from detxai.app.detectors.shared_weights import SharedWeights
from detxai.app.folders import visitor_folder
from detxai.app.jobs import Job, MethodResult
from detxai.app.options import ModelChoice
from detxai.app.pictures import Picture
from detxai.detections import Detections

LOWEST_SCORE = 0.05  # of the detections that the page has; its slider hides some of them
MOST_RESULTS = 40  # explanations kept: each has a map and a picture
MOST_RESULT_BYTES = 256 * 2**20  # that these may take
ALWAYS_KEPT = 4  # of them, the newest: as many as stand side by side
MOST_DETECTORS = 16  # of all visitors; who has not used theirs for longest gets it again when they come back
MOST_DETECTIONS = 60  # pictures whose detections are kept


WEIGHTS = SharedWeights()
_OPEN: weakref.WeakSet[Session] = weakref.WeakSet()


@dataclass(eq=False)
class Session:
    """One visitor's state.

    A session has a detector of its own, so that the work of one visitor neither changes nor waits for another's.

    Attributes:
        folder: of what was uploaded; removed at the end.
        choice, detector: the detector in use.
        used: when it was asked for last, as ``time.monotonic`` counts.
        models, uploads: what was uploaded: detectors, and pictures by name.
        detections: what the detector finds, by detector and picture.
        results: explanations by what they answer, the oldest first.
        job: the work that goes on, or went on last.
    """

    folder: Path
    choice: ModelChoice | None = None
    detector: Detector | None = None
    used: float = 0.0
    models: dict[str, ModelChoice] = field(default_factory=dict)
    uploads: dict[str, Picture] = field(default_factory=dict)
    detections: OrderedDict[tuple[str, str], Detections] = field(default_factory=OrderedDict)
    results: OrderedDict[tuple[Any, ...], MethodResult] = field(default_factory=OrderedDict)
    job: Job | None = None

    @classmethod
    def open(cls) -> Session:
        session = cls(visitor_folder())
        _OPEN.add(session)
        return session

    def close(self) -> None:
        """Stop the work, and remove what was uploaded."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """Ask the work to end; what it has so far is kept."""
        if self.job is not None:
            self.job.stop()

    @property
    def is_working(self) -> bool:
        return self.job is not None and self.job.is_running

    def use(self, choice: ModelChoice) -> Detector:
        """The detector of a choice; another one than before takes its place.

        Raises:
            ValueError, TypeError, LookupError, ImportError, OSError: it cannot be loaded.
        """
        self.used = time.monotonic()
        detector = self.detector
        if detector is None or self.choice != choice:
            self.stop()
            self.detector, self.choice = None, None
            detector = WEIGHTS.detector(choice)
            self.detector, self.choice = detector, choice
            close_idle_detectors()
        return detector

    def detect(self, picture: Picture) -> Detections:
        """What the detector finds in a picture, from ``LOWEST_SCORE`` on.

        Raises:
            ValueError: the picture cannot be read, or the detector cannot take it.
        """
        assert self.choice is not None  # ``use`` comes first
        assert self.detector is not None
        key = repr(self.choice), picture.key
        if key not in self.detections:
            self.detections[key] = self.detector.detect(picture.load(), LOWEST_SCORE)
            while len(self.detections) > MOST_DETECTIONS:
                self.detections.popitem(last=False)
        return self.detections[key]

    def keep(self, key: tuple[Any, ...], result: MethodResult) -> None:
        """Keep a result as the newest; the oldest make room, but never one of the ``ALWAYS_KEPT`` newest."""
        self.results[key] = result
        self.results.move_to_end(key)
        while len(self.results) > ALWAYS_KEPT and (
            len(self.results) > MOST_RESULTS or self._result_bytes() > MOST_RESULT_BYTES
        ):
            self.results.popitem(last=False)

    def _result_bytes(self) -> int:
        found = [one.explanation for one in self.results.values() if one.explanation is not None]
        arrays = [array for one in found for array in (one.values, one.standard_error, one.image)]
        return sum(array.nbytes for array in arrays if array is not None)


def close_idle_detectors() -> None:
    """Let go of detectors beyond ``MOST_DETECTORS``, those unused for longest first; none that works."""
    holding = sorted((one for one in list(_OPEN) if one.detector is not None), key=lambda one: one.used)
    for session in holding[: max(0, len(holding) - MOST_DETECTORS)]:
        if not session.is_working:
            session.detector, session.job = None, None
