"""Occlusion: what the score loses while a window that slides over the image hides a part of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.batching import check_batch_size
from detxai.engine.masking.canvas import Canvas, Filling
from detxai.engine.masking.scoring import ViewScorer
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.checks import check_target
from detxai.methods.from_captum.baselines import check_baseline
from detxai.methods.from_captum.captum_module import import_captum
from detxai.methods.from_captum.joint_gradients import MAPS_AT_ONCE
from detxai.methods.from_captum.views import ViewScores
from detxai.methods.results import explanations
from detxai.progress import progress_bar
from detxai.targets import ClassScoreTarget, Target, ask_about

Extent: TypeAlias = int | float | tuple[int, int] | None
WINDOWS_A_SIDE = 8  # of the default size, side by side along the image's shorter side


@dataclass(frozen=True)
class Occlusion:
    """How far the box's score falls while a pixel is hidden, averaged over the windows that hide it.

    ``values = mean over the windows that cover the pixel of score(image) - score(image without the window)``, signed,
    in units of the score.

    Args:
        window: the size of what is hidden at a time: in pixels of the image (a side, or (height, width)), or, as a
            float, a share in (0, 1] of the box's sides. None: a square of an eighth of the image's shorter side. The
            size is rounded to whole pixels of the model's input. With a share every box has its own windows and passes.
        stride: the distance from one window to the next, given like ``window`` and at most as large. None: half the
            window.
        fill: what is seen inside the window: ``"black"``, ``"mean"``, ``"blur"``, ``"noise"`` or an RGB colour.
        target: the question about a box: a function from its box and label to a target.
        batch_size: views at once; None: as many as fit on the device.
        progress: whether to show a progress bar; None: only in a terminal.

    Source: Zeiler & Fergus, 2014 (ECCV), section 4.2; by Captum's ``Occlusion``.
    """

    name: ClassVar[str] = "occlusion"
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "answers"
    is_signed: ClassVar[bool] = True
    passes: ClassVar[str] = "1 + the number of windows; all boxes share them if the window is given in pixels"

    window: Extent = None
    stride: Extent = None
    fill: Filling | Sequence[float] = "black"
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            object.__setattr__(self, name, _checked(name, getattr(self, name)))
        check_baseline(self.fill, "fill")
        check_target(self.target)
        check_batch_size(self.batch_size)

    @in_full_precision
    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection.

        Raises:
            ValueError: a label is wrong, or the stride is larger than the window.
            ImportError: Captum is not installed.
        """
        started = perf_counter()
        captum = import_captum()
        if len(detections) == 0:
            return []
        canvas = Canvas.with_fill(detector, image, self.fill)
        each = isinstance(self.window, float) or isinstance(self.stride, float)
        groups = [detections[i] for i in range(len(detections))] if each else [detections]
        windows = [self._windows(canvas, group.boxes[0]) for group in groups]
        maps: list[Tensor] = []
        n_passes, most = 0, sum(1 + n_windows(canvas.size, *extents) for extents in windows)
        with detector.borrowed(), progress_bar(self.progress, most, "hiding windows", "view") as bar:
            for group, (window, stride) in zip(groups, windows, strict=True):
                targets = ask_about(group, self.target)
                scores = ViewScores(ViewScorer(detector, canvas, targets, self.batch_size, on_views=bar.update))
                lost = captum.Occlusion(scores).attribute(
                    torch.ones(1, 1, *canvas.size, device=canvas.clean.tensor.device),
                    sliding_window_shapes=(1, *window), strides=(1, *stride), baselines=0,
                    perturbations_per_eval=max(1, MAPS_AT_ONCE // len(group)),
                )  # fmt: skip
                maps += list(canvas.to_image(lost.reshape(len(group), *canvas.size)).float().cpu())
                n_passes += scores.n_passes
        sizes = [dict(zip(("window_input", "stride_input"), extents, strict=True)) for extents in windows]
        return explanations(
            self, detector, canvas.clean, detections, maps, started=started, passes=canvas.n_passes(n_passes),
            details=[(sizes[i] if each else sizes[0]) | canvas.details() for i in range(len(detections))],
        )  # fmt: skip

    def _windows(self, canvas: Canvas, box: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        """The window and the stride, (height, width) each, in pixels of the canvas."""
        height, width = canvas.geometry.image_size
        default = min(height, width) / WINDOWS_A_SIDE
        across, down = (box[2:] - box[:2]).clamp(min=1).tolist()
        sides = _in_pixels(self.window, (down, across), (default, default))
        steps = _in_pixels(self.stride, (down, across), (sides[0] / 2, sides[1] / 2))
        window, stride = (
            tuple(
                min(max(round(side * scale), 1), size)
                for side, scale, size in zip(extent, canvas.geometry.scale, canvas.size, strict=True)
            )
            for extent in (sides, steps)
        )
        if stride[0] > window[0] or stride[1] > window[1]:
            raise ValueError(
                f"stride must be at most the window, got {stride} for {window} (height, width) in input pixels"
            )
        return window, stride  # type: ignore[return-value]


def n_windows(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> int:
    """How many places of the window cover a canvas of this (height, width), the last of a row cut at the edge."""
    down, across = (
        1 + -(-max(0, whole - side) // step) for whole, side, step in zip(size, window, stride, strict=True)
    )
    return down * across


def _in_pixels(
    extent: Extent, box: tuple[float, float], default: tuple[float, float]
) -> tuple[float, float] | tuple[int, int]:
    """(height, width) in pixels of the image; ``box`` is (height, width) too."""
    if extent is None:
        return default
    if isinstance(extent, float):
        return extent * box[0], extent * box[1]
    return (extent, extent) if isinstance(extent, int) else extent


def _checked(name: str, extent: Any) -> Extent:
    sides = list(extent) if isinstance(extent, (list, tuple)) else [extent]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides)
    if extent is None or (isinstance(extent, float) and 0 < extent <= 1) or (whole and len(sides) in (1, 2)):
        return (sides[0], sides[1]) if len(sides) == 2 else sides[0]
    raise ValueError(
        f"{name} must be pixels (a whole number from 1, or (height, width)), or as a float a share of the box "
        f"in (0, 1], got {extent!r}"
    )
