"""An exported file as a black box."""

from __future__ import annotations

import ast
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detxai.adapters.black_boxes.function import FunctionAdapter
from detxai.adapters.exported.files import OPENERS, ExportedFile, open_file
from detxai.adapters.exported.layouts import LAYOUTS, Layout, Outputs, plausible
from detxai.adapters.exported.preparation import Preparation
from detxai.geometry import Geometry

log = logging.getLogger(__name__)

SUFFIXES = tuple(OPENERS)


@dataclass(eq=False)
class ExportedNetwork:
    """A function from uint8 (H, W, 3) RGB arrays to an exported network's answers, boxes in pixels of the arrays.

    Attributes:
        file: the network.
        layout: of its outputs; None until the first image shows which it is.
        preparation: of its images; None: the layout's.
        input_size: (height, width) for a network that takes any; None: photos as they are.
        class_names: label -> name, as the exporter noted them.
    """

    file: ExportedFile
    layout: Layout | None = None
    preparation: Preparation | None = None
    input_size: tuple[int, int] | None = None
    class_names: Mapping[int, str] = field(default_factory=dict)

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[dict[str, Any]]:
        if self.layout is None:
            self.layout = self._recognised(images[0])
        return self._answers(images, self.layout)

    def _answers(self, images: Sequence[npt.NDArray[np.uint8]], layout: Layout) -> list[dict[str, Any]]:
        prepare = self.preparation or layout.preparation
        inputs, places = zip(*(prepare(image, self._size) for image in images), strict=True)
        found: list[dict[str, Any]] = []
        of_one_size = len({one.shape for one in inputs}) == 1
        for group in [np.stack(inputs)] if of_one_size else [one[None] for one in inputs]:
            for outputs in self.file(group):
                size = (group.shape[2], group.shape[3])
                if not layout.recognise(outputs, size):
                    raise ValueError(
                        f"model: {self.file.path.name} must answer as layout {layout.name!r}, {layout.says}; got "
                        f"{_shapes(outputs)}"
                    )
                found += layout.read(outputs, size)
        return [_in_pixels_of(answer, place) for answer, place in zip(found, places, strict=True)]

    @property
    def _size(self) -> tuple[int, int] | None:
        return self.file.input_size or self.input_size

    def _recognised(self, image: npt.NDArray[np.uint8]) -> Layout:
        """The one layout whose shapes fit and whose values, read so, are detections.

        Raises:
            ValueError: none, or several.
        """
        fit, shapes = [], ""
        for layout in LAYOUTS.values():
            prepared, _ = (self.preparation or layout.preparation)(image, self._size)
            outputs, size = self.file(prepared[None])[0], (prepared.shape[1], prepared.shape[2])
            shapes = _shapes(outputs)
            if layout.recognise(outputs, size) and plausible(layout.read(outputs, size), size):
                fit.append(layout)
        if len(fit) != 1:
            known = "; ".join(f"{one.name}: {one.says}" for one in fit or LAYOUTS.values())
            raise ValueError(
                f"model: {self.file.path.name} must answer in one layout that can be told from its outputs, got "
                f"{shapes}; give layout=, one of {known}; or wrap a function that reads it"
            )
        log.info("%s: layout %s, %s", self.file.path.name, fit[0].name, self.preparation or fit[0].preparation)
        return fit[0]


class ExportedAdapter(FunctionAdapter):
    """An exported detector, by its answers alone: D-RISE and the default method explain it.

    Args:
        function: from ``open_exported``.
        class_names: label -> name; default: what the exporter noted.
    """

    family = "exported"
    what_it_is = "an exported model"
    function: ExportedNetwork

    def describe(self) -> dict[str, Any]:
        layout = self.function.layout
        return super().describe() | ({} if layout is None else {"layout": layout.name})

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return self.function.file.fingerprint()

    @property
    def model_name(self) -> str:
        return self.function.file.path.name


def open_exported(
    path: str | PathLike[str],
    *,
    layout: str | None = None,
    preparation: Preparation | None = None,
    input_size: int | tuple[int, int] | None = None,
) -> ExportedNetwork:
    """The network in an exported file, ready for ``ExportedAdapter``.

    The layout of the outputs is told from their shapes on the first image, and must read there as detections. Scores
    from before the suppression are used where the file gives them.

    Args:
        path: a ``.onnx``, run by onnxruntime; an OpenVINO ``.xml``; a ``.torchscript``.
        layout: one of ``LAYOUTS``; default: recognised.
        preparation: how the network wants its images; default: as networks of the layout mostly do, which a wrong
            guess shows by weak scores.
        input_size: side, or (height, width), for a network that takes any size; default: each photo's own.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the runtime is not installed.
        ValueError: the file cannot be read, or a setting is wrong.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if preparation is not None and not isinstance(preparation, Preparation):
        raise TypeError(f"preparation must be a Preparation, got {type(preparation).__name__}")
    file = open_file(Path(path))
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"input_size must be a side or (height, width) in pixels, got {input_size!r}")
    if size is not None and file.input_size not in (None, size):
        raise ValueError(f"input_size must be what {file.path.name} was exported for, {file.input_size}, got {size}")
    chosen = None if layout is None else LAYOUTS[layout]
    return ExportedNetwork(file, chosen, preparation, size, _noted_names(file))


def _noted_names(file: ExportedFile) -> dict[int, str]:
    """The class names that ultralytics notes in its exports; none where there is no such note."""
    try:
        names = ast.literal_eval(file.metadata.get("names", "{}"))
        return {int(label): str(name) for label, name in names.items()}
    except (ValueError, SyntaxError, AttributeError):
        return {}


def _in_pixels_of(answer: dict[str, Any], place: Geometry) -> dict[str, Any]:
    """The answer with its boxes in pixels of the image, clipped to it."""
    height, width = place.image_size
    boxes = place.boxes_to_image(torch.from_numpy(np.ascontiguousarray(answer["boxes"], dtype=np.float32)))
    limits = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    return {**answer, "boxes": torch.minimum(boxes.clamp(min=0), limits)}


def _shapes(outputs: Outputs) -> str:
    return ", ".join(f"{name} {list(one.shape)}" for name, one in outputs.items())
