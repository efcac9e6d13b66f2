"""Detectors of several visitors: a network each, with the weights in memory once as long as they are the same."""

from __future__ import annotations

import copy
import logging
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from detxai.adapters.detector import Detector
from detxai.app.detectors.models import file_digest, load_detector
from detxai.app.options import ModelChoice

log = logging.getLogger("detxai")

Key: TypeAlias = tuple[Any, ...]


class SharedWeights:
    """Loads detectors, and gives every visitor a copy whose parameters are those of the first.

    Only parameters are shared: nothing on the page writes to them. Buffers, modes and attributes, which a network
    changes while it runs, are each copy's own, so that copies run side by side. What is the same is decided by the
    content of the files. An exported network is loaded for every visitor anew: its runtime copies nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[Key, _Loaded] = {}

    def detector(self, choice: ModelChoice) -> Detector:
        """A detector of a choice, which nobody else has.

        Raises:
            ValueError, TypeError, LookupError, ImportError, OSError: it cannot be loaded.
        """
        key = _key(choice)
        with self._lock:
            self._loaded = {known: one for known, one in self._loaded.items() if known == key or len(one.copies)}
            if key in self._loaded:
                return self._loaded[key].new_copy()
        detector = load_detector(choice)
        if detector.network is None:
            return detector
        loaded = _Loaded(detector, weakref.WeakSet())
        try:
            own = loaded.new_copy()
        except Exception as error:  # a network of the visitor's may hold what cannot be copied
            log.info("the weights of %s are not shared", choice.name, exc_info=error)
            return detector
        with self._lock:
            self._loaded.setdefault(key, loaded)
        return own


@dataclass(eq=False)
class _Loaded:
    """A detector that never runs, and the copies of it in use."""

    detector: Detector
    copies: weakref.WeakSet[Detector]

    def new_copy(self) -> Detector:
        network = self.detector.network
        assert network is not None
        # to ``deepcopy``, what is in its memo has been copied already
        own = copy.deepcopy(self.detector, {id(parameter): parameter for parameter in network.parameters()})
        self.copies.add(own)
        return own


def _key(choice: ModelChoice) -> Key:
    contents = [_content(one) for one in (choice.model, choice.weights, choice.class_names)]
    return (*contents, choice.slices, choice.layout, choice.input_size, choice.device, choice.is_trusted)


def _content(given: str | Path | None) -> Any:
    """What a file or a folder holds; a name that is neither stands for itself."""
    if given is None or not Path(given).exists():
        return given
    path = Path(given)
    if path.is_file():
        return path.suffix, file_digest(path)
    return tuple((str(one.relative_to(path)), file_digest(one)) for one in sorted(path.rglob("*")) if one.is_file())
