"""The folder of a run: the request, a file for each image and stage, the concepts, the summary and the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from detxai.engine.concepts.concept_file import FILE
from detxai.runs.files import make_folder, replacing
from detxai.runs.folder import RunFolder


@dataclass(frozen=True)
class ConceptFolder(RunFolder):
    """``request.json``, ``parts/`` with two files for each image, ``concepts.safetensors``, ``summary.json`` and
    ``index.html``."""

    what: ClassVar[str] = "search for concepts"

    @property
    def concepts(self) -> Path:
        return self.root / FILE

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    def samples_of(self, number: int) -> Path:
        """The features drawn from image ``number``."""
        return self.parts / f"{number:06d}.safetensors"

    def boxes_of(self, number: int) -> Path:
        """The effects on the boxes of image ``number``."""
        return self.parts / f"{number:06d}.json"

    def write_samples(self, number: int, tensors: Mapping[str, Tensor], detections: Mapping[str, Any]) -> None:
        """Keep the features drawn from an image, and what was detected in it."""
        make_folder(self.parts)
        with replacing(self.samples_of(number)) as temporary:
            save_file(dict(tensors), temporary, metadata={"detections": json.dumps(detections, allow_nan=False)})

    def read_detections(self, number: int) -> dict[str, Any] | None:
        """What was detected in an image; None where its samples are not there, or are damaged."""
        try:
            with safe_open(self.samples_of(number), "pt") as file:
                found: dict[str, Any] = json.loads((file.metadata() or {})["detections"])
                return found
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def read_boxes(self, number: int, key: str) -> list[dict[str, Any]] | None:
        """The records of an image's boxes; None where there are none of the concepts with this key."""
        try:
            part = json.loads(self.boxes_of(number).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or damaged: it is made again
            return None
        return part["boxes"] if isinstance(part, dict) and part.get("key") == key else None
