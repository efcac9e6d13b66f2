"""L2X: a network that was trained once for this detector says in one pass what each place of the image adds."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector, Features
from detxai.detections import Detections
from detxai.engine.learned.saved import LearnedExplainer
from detxai.engine.learned.windows import Windows
from detxai.explanation import Explanation
from detxai.geometry import Geometry
from detxai.images import Image
from detxai.methods.results import explanations


@dataclass(frozen=True)
class L2X:
    """What an explainer learnt that was trained for this detector: one pass for the image, and no view of it is scored.

    A small network reads the box's surroundings and the whole image, in the pixels and in the detector's own features,
    and puts out an amount for each of 24 x 24 cells of both. ``detxai concepts learn`` trains it, for one of three
    objectives, and its file says which:

    - ``"evidence"``: where ``pixel_evidence`` found evidence in the training images. ``values`` shares out the box's
      score over the pixels: from 0, in units of the score a pixel.
    - ``"shapley"``: the amounts of random subsets of regions add up to what the detector answers when they are shown
      and when they are hidden. ``values`` is then the density of Shapley values that ``region_shapley`` estimates
      anew for each box, signed, in units of the score a pixel.
    - ``"choice"``: the chance that a place is among the k regions that are chosen, so that the detector says of them
      alone what it says of the image. ``values`` is the density of that chance, from 0.

    It is a guess from other images, and not a measurement of this one: nothing in it is checked on the image.

    Args:
        explainer: the file, ``explainer.safetensors``, which is for one detector alone; it must be named.

    Raises:
        TypeError, ValueError, FileNotFoundError: ``explainer`` is no path, is missing, or is not there.

    Source: Chen et al., 2018, Learning to Explain (ICML); Jethani et al., 2022, FastSHAP (ICLR); Covert et al., 2024,
    Stochastic Amortization (NeurIPS). The cells, and the
    regions that they are trained with, are detxai's own.
    """

    name: ClassVar[str] = "l2x"
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "answers"
    passes: ClassVar[str] = "1 pass for the image, and 1 of a small network a box"
    needs_file: ClassVar[str] = "explainer"

    explainer: str | None = None

    def __post_init__(self) -> None:
        if self.explainer is None:
            raise ValueError(
                "explainer must be the file that 'detxai concepts learn' makes for this detector, got none"
            )
        if not isinstance(self.explainer, (str, Path)):
            raise TypeError(f"explainer must be the path of a file, got {type(self.explainer).__name__}")
        if not Path(self.explainer).is_file():
            raise FileNotFoundError(f"explainer: no such file: {self.explainer}")

    @in_full_precision
    def __call__(self, detector: Detector, image: Image | Features, detections: Detections) -> list[Explanation]:
        """One explanation for each detection; ``details`` has the objective and what the explainer was trained on.

        Raises:
            ValueError: the file is no explainer, or is for another detector.
        """
        started = time.perf_counter()
        learnt = LearnedExplainer.read(Path(str(self.explainer)))
        learnt.expect_detector(detector)
        if len(detections) == 0:
            return []
        with detector.borrowed():
            amounts, windows, clean = learnt.amounts(detector, image, detections)
        if learnt.card["objective"] != "choice":
            amounts = amounts * detections.scores.to(amounts)[:, None, None, None]
        details = {name: learnt.card[name] for name in ("objective", "n_images", "n_boxes")}
        return explanations(
            self, detector, clean, detections, _on_image(windows, amounts, clean.geometries[0]),
            started=started, passes=1 if learnt.layers else 0, layers=learnt.layers or None, details=details,
        )  # fmt: skip


def _on_image(windows: Windows, amounts: Tensor, geometry: Geometry) -> Tensor:
    """(T, H, W) the density over the image's pixels."""
    alone = replace(geometry, input_size=geometry.resized_size, offset=(0, 0))
    scale_y, scale_x = geometry.scale
    return alone.map_to_image(windows.density(amounts)) * (scale_y * scale_x)
