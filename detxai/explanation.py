"""An explanation: one map in the pixels of the original image, and everything needed to redo it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detxai.detections import Detections
from detxai.low_pass import low_pass
from detxai.runs.files import replacing
from detxai.runs.versions import installed_versions


@dataclass(frozen=True)
class Cost:
    """What an explanation took.

    Attributes:
        seconds: wall time of the whole call that made it; shared by all explanations of that call.
        forward_passes: passes through the network or its tail, likewise shared.
    """

    seconds: float
    forward_passes: int


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Which pixels put this box, with this class, here.

    Attributes:
        values: (H, W) float32, raw and signed, pixels of the original image; never normalised, never cropped.
        image: (H, W, 3) uint8 RGB, the image explained.
        method: the method's name, such as ``eigen_cam``.
        settings: the method's settings, as JSON can hold them.
        cost: seconds and forward passes.
        detection: the box in question, ``Detections`` of length 1; None where the method asks no question of a box.
        channel_effects: (C,) the drop of the score for each channel ablated, levels in pyramid order; NaN where a
            channel was not ablated; None where the method ablates no channels.
        model: what was explained: family, layers and the like.
        standard_error: (H, W) float32, how far ``values`` may be off for having been sampled; None where they are not
            random.
        partial: True where the work was interrupted and this is what had been done by then.
        details: what the run came to, as JSON can hold it: such as how many masks were used.

    Raises:
        ValueError: ``values`` or ``standard_error`` is not (H, W) of the image, or not finite.
    """

    values: npt.NDArray[np.float32]
    image: npt.NDArray[np.uint8]
    method: str
    settings: Mapping[str, Any]
    cost: Cost
    detection: Detections | None = None
    channel_effects: Tensor | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    standard_error: npt.NDArray[np.float32] | None = None
    partial: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"image must be uint8 (H, W, 3), got {self.image.dtype} {self.image.shape}")
        for name in ("values", "standard_error"):
            given = getattr(self, name)
            if given is None:
                continue
            array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
            if array.shape != self.image.shape[:2]:
                raise ValueError(f"{name} must have the image's shape {self.image.shape[:2]}, got {array.shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, got NaN or infinity")
            object.__setattr__(self, name, np.ascontiguousarray(array, dtype=np.float32))
        if self.detection is not None and len(self.detection) != 1:
            raise ValueError(f"detection must be Detections of length 1, got {len(self.detection)}")

    @property
    def heatmap(self) -> npt.NDArray[np.float32]:
        """The evidence for the box scaled to [0, 1]: the positive part of ``values`` over its maximum.

        (H, W) float32. All zeros where nothing speaks for the box, never NaN.
        """
        positive = np.maximum(self.values, 0)
        peak = float(positive.max())
        return np.asarray(positive / peak if peak > 0 else positive, dtype=np.float32)

    def low_pass(self, sigma: float) -> Explanation:
        """The same explanation without the spatial frequencies above ``sigma``, which ``settings`` then tells.

        FORGrad's repair of noisy maps: see ``detxai.low_pass.low_pass``. The map has no ``standard_error`` any more.

        Args:
            sigma: cycles per image side: 0 leaves a map of zeros, the side leaves the map as it is. About 15 is a good
                start.

        Raises:
            ValueError, TypeError: ``sigma`` is no finite number from 0.
        """
        filtered = low_pass(self.values, sigma)
        earlier = self.settings.get("low_pass")
        least = min(sigma, earlier) if isinstance(earlier, (int, float)) else sigma  # filters in turn: the lowest
        settings = {**self.settings, "low_pass": least}
        return replace(self, values=filtered, settings=settings, standard_error=None)

    @property
    def caption(self) -> str:
        """What the map shows, in a line: ``person 0.90 · ablation_cam``; ``· partial`` where it was interrupted."""
        of = f"{self.method} · asks about no box"
        if self.detection is not None:
            of = f"{self.detection.name(0)} {float(self.detection.scores[0]):.2f} · {self.method}"
        return f"{of} · partial" if self.partial else of

    def __repr__(self) -> str:
        height, width = self.values.shape
        return f"Explanation({self.caption}, {height} x {width} pixels)"

    def _repr_png_(self) -> bytes:
        """What a notebook shows where an explanation is the last line of a cell."""
        from detxai.pages.showing import overlay_png

        return overlay_png(self)

    def show(self, **style: Any) -> None:
        """Show the overlay: below the cell of a notebook, elsewhere in the system's picture viewer.

        Args:
            style: settings of ``detxai.pages.overlays.overlay``.
        """
        from detxai.pages.showing import show

        show(self, **style)

    def save(self, path: str | PathLike[str], **style: Any) -> Path:
        """Write an overlay for a report: photo, map, box, caption and colour bar.

        Args:
            path: an image file; its ending names the format (png, jpg, pdf, svg). Its folder must exist.
            style: settings of ``detxai.pages.overlays.overlay``.

        Returns:
            The path written.
        """
        from detxai.pages.overlays import save_overlay  # the one way up: drawing stands above everything it draws

        return save_overlay(self, path, **style)

    def save_map(self, path: str | PathLike[str], **extra: Any) -> Path:
        """Write the raw map as ``.npz`` and, beside it, a ``.json`` with everything needed to redo it.

        Args:
            path: ends in ``.npz``; its folder must exist. ``numpy.load(path)["values"]`` reads the map back (no
                pickle); ``standard_error`` and ``channel_effects`` are there too where the method has them, and
                ``partial`` where the work was interrupted.
            extra: further entries for the ``.json``, such as the image's file name.

        Returns:
            The ``.npz`` written.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"path must end in .npz, got {path}")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"path: no such folder: {path.parent}")
        arrays: dict[str, npt.NDArray[Any]] = {"values": self.values}
        if self.standard_error is not None:
            arrays["standard_error"] = self.standard_error
        if self.channel_effects is not None:
            arrays["channel_effects"] = self.channel_effects.detach().cpu().numpy()
        if self.partial:
            arrays["partial"] = np.array(True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        with replacing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(self.record() | plain(extra), indent=2) + "\n", encoding="utf-8")
        return path

    def record(self) -> dict[str, Any]:
        """Everything but the map, as JSON can hold it."""
        height, width = self.values.shape
        return {
            "method": self.method,
            "settings": plain(self.settings),
            "detection": None if self.detection is None else _box_record(self.detection),
            "image": {"height": height, "width": width, "sha256": hashlib.sha256(self.image.tobytes()).hexdigest()},
            "model": plain(self.model),
            "cost": asdict(self.cost),
            "partial": self.partial,
            "details": plain(self.details),
            "versions": installed_versions(("detxai", "torch", "torchvision", "ultralytics")),
        }


def _box_record(detection: Detections) -> dict[str, Any]:
    return {
        "box": detection.boxes[0].tolist(),
        "score": float(detection.scores[0]),
        "label": int(detection.labels[0]),
        "name": detection.name(0),
    }


def settings_of(method: object) -> dict[str, Any]:
    """A method's settings as JSON can hold them: callables and layers by name.

    A method that works through another one tells its ``recorded_settings`` itself.
    """
    if hasattr(method, "recorded_settings"):
        return dict(method.recorded_settings())
    return {f.name: plain(getattr(method, f.name)) for f in fields(method)}  # type: ignore[arg-type]


def plain(value: object) -> Any:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (torch.device, torch.dtype, Path)):
        return str(value)
    if isinstance(value, Tensor):
        return value.detach().cpu().tolist()
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    return f"{getattr(value, '__module__', type(value).__module__)}:{name}"
