"""What one visitor has: a folder for uploads, a detector of their own, explanations so far, the work going on."""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detxai.adapters.detector import Detector
from detxai.app.jobs import Job, MethodResult
from detxai.app.models import load_detector
from detxai.app.options import ModelChoice
from detxai.app.pictures import Picture
from detxai.detections import Detections

LOWEST_SCORE = 0.05  # of the detections that the page has; its slider hides some of them
MOST_RESULTS = 40  # explanations kept: each has a map and a picture
MOST_DETECTIONS = 60  # pictures whose detections are kept


class _Root:
    folder: Path | None = None


@contextmanager
def temporary_root() -> Iterator[Path]:
    """A folder for everything that visitors upload, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="detxai-app-", ignore_cleanup_errors=True) as folder:
        _Root.folder = Path(folder)
        try:
            yield _Root.folder
        finally:
            _Root.folder = None


@dataclass(eq=False)
class Session:
    """One visitor's state.

    A session has a detector of its own, so that the work of one visitor neither changes nor waits for another's.

    Attributes:
        folder: of what was uploaded; removed at the end.
        choice, detector: the detector in use.
        models, uploads: what was uploaded: detectors, and pictures by name.
        detections: what the detector finds, by detector and picture.
        results: explanations by what they answer, the oldest first.
        job: the work that goes on, or went on last.
    """

    folder: Path
    choice: ModelChoice | None = None
    detector: Detector | None = None
    models: dict[str, ModelChoice] = field(default_factory=dict)
    uploads: dict[str, Picture] = field(default_factory=dict)
    detections: OrderedDict[tuple[str, str], Detections] = field(default_factory=OrderedDict)
    results: OrderedDict[tuple[Any, ...], MethodResult] = field(default_factory=OrderedDict)
    job: Job | None = None

    @classmethod
    def open(cls) -> Session:
        return cls(Path(tempfile.mkdtemp(prefix="session-" if _Root.folder else "detxai-app-", dir=_Root.folder)))

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
        if self.detector is None or self.choice != choice:
            self.stop()
            self.detector, self.choice = None, None
            detector = load_detector(choice)
            self.detector, self.choice = detector, choice
        return self.detector

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
        self.results[key] = result
        while len(self.results) > MOST_RESULTS:
            self.results.popitem(last=False)
