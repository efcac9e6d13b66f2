"""The folder of a run: the request, a file for each image and stage, the concepts, the summary and the page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
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
    """``request.json``, ``parts/``, ``concepts.safetensors``, ``summary.json`` and ``index.html``.

    ``parts/`` has two files for each image and one for each class.
    """

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

    def channels_of(self, label: int) -> Path:
        """The channels that keep a box of class ``label``."""
        return self.parts / f"class-{label}.json"

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

    def key(self) -> str:
        """Which concepts these are: the records of boxes that belong to others are of no use."""
        return hashlib.sha256(self.concepts.read_bytes()).hexdigest()[:16]

    def write_boxes(self, number: int, key: str, image: str, boxes: Sequence[Mapping[str, Any]]) -> None:
        """Keep the records of an image's boxes.

        Args:
            number, image: of the image, and its name.
            key: of the concepts.
            boxes: see ``box_records``.
        """
        self.write_json(self.boxes_of(number), {"key": key, "image": image, "content": list(boxes)})

    def named_records(self) -> list[dict[str, Any]]:
        """The records of every box, each with the name of its ``image``; only of parts that tell it."""
        key, found = self.key(), []
        for path in sorted(self.parts.glob("[0-9]*.json")):
            part = self._part(path, key)
            if part.get("image") is not None:
                found += [{**box, "image": str(part["image"])} for box in part.get("content") or []]
        return found

    def read_part(self, path: Path, key: str) -> Any:
        """What a file of ``parts`` holds; None where it is not there, is damaged, or belongs to another key."""
        return self._part(path, key).get("content")

    def _part(self, path: Path, key: str) -> dict[str, Any]:
        """A whole file of ``parts``; empty where ``read_part`` gives None."""
        try:
            part = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it is made again
            return {}
        return part if isinstance(part, dict) and part.get("key") == key else {}
