"""Pixel evidence, the default: the Shapley values of regions, started from what one pass through the network says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from detxai.adapters.adapter import Adapter
from detxai.detections import Detections
from detxai.engine.masking.decisive import decisive_cells
from detxai.engine.masking.shapley import Densities, density_per_image_pixel
from detxai.engine.perturbing import Canvas
from detxai.explanation import Cost, Explanation, settings_of
from detxai.images import Image
from detxai.methods.layer_cam import LayerCAM
from detxai.methods.region_shapley import (
    FEWEST_PASSES,
    Fill,
    RegionShapley,
    boxes_on,
    check_count,
    check_sampling,
    fills_of,
)
from detxai.targets import ClassScoreTarget, Target, ask_about

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PixelEvidence:
    """How much each pixel speaks for the box: what its region adds to the score, whatever else can be seen.

    A *draw* D is the density of Shapley values for one random way to cut the image, under every filling (the page of
    ``RegionShapley`` derives it). Its mean over n draws is right on average and noisy for few. The *start* S costs one
    pass: half of it is a hill over the box, since objects are mostly in the middle of their boxes, and half LayerCAM,
    where the detector is a network. It is smooth, cheap, and not asked of any changed image. Both are densities of the
    same sum, ``score(whole image) - score(nothing shown)``, and are joined as a prior and its data are:

        ``values = (sum of the draws + k S) / (n + k)``

    The start counts as ``k`` draws (``start_draws``): with no draws the map *is* the start, with many it is forgotten.

    Every draw is also a test of the map that the others make: where the start alone agrees better with draws that were
    set aside than the joined map does, the start is kept (``details["kept"]``).

    Args:
        max_passes: views of the image for each box, on average over the boxes. Boxes whose map is known well enough
            stop early, hard ones go on. Below 64 the map is the start.
        tolerance: in (0, 1): a box needs no more views when another seed's draws would correlate with these by
            1 - ``tolerance`` or more.
        start_draws: k, how many draws the start counts as; 0 leaves it out.
        ignore_below: in [0, 1), as a share of the clean score: smaller changes of the score are not looked into.
        refine: how many regions of each partition to cut in four, where the density so far is largest.
        decisive: whether to look, with some 20 passes more a box, for the smallest sets of cells, in the order of the
            map, that keep the box and whose removal loses it: ``details["sufficient"]`` and ``details["necessary"]``.
        fill: what is seen where the image is hidden, or several such, over which the draws are averaged: see
            ``RegionShapley``.
        seed: of the draws; batch size changes nothing.
        target: from a detection's box and label to the question asked of it.
        batch_size: views at once; None: what fits the device.
        precision: ``"full"`` (the model's own), ``"bf16"`` or ``"fp16"`` autocast.
        keep_partial: whether Ctrl-C ends the work and gives the map of the draws so far, marked ``partial``.
        progress: a bar; None: where standard error is a terminal.

    Source: detxai's own; the parts are those of ``RegionShapley`` and ``LayerCAM``.
    """

    name: ClassVar[str] = "pixel_evidence"
    asks_about_boxes: ClassVar[bool] = True

    max_passes: int = 300
    tolerance: float = 0.15
    start_draws: float = 2.5
    ignore_below: float = 0.1
    refine: int = 0
    decisive: bool = False
    fill: Fill = ("black", "mean")
    seed: int = 0
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None
    precision: str = "full"
    keep_partial: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_count("max_passes", self.max_passes, 1)
        check_count("refine", self.refine, 0)
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie in (0, 1), got {self.tolerance!r}")
        if not 0 <= self.start_draws < float("inf"):
            raise ValueError(f"start_draws must be a number from 0, got {self.start_draws!r}")
        if not 0 <= self.ignore_below < 1:
            raise ValueError(f"ignore_below must lie in [0, 1), got {self.ignore_below!r}")
        check_sampling(self)

    def __call__(self, detector: Adapter, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection, with the standard error of every pixel.

        Raises:
            ValueError: a setting or a label is wrong.
        """
        clock = time.perf_counter()
        if len(detections) == 0:
            return []
        canvas = Canvas.with_fills(detector, image, fills_of(self.fill), self.seed)
        shapes, names = self._start(detector, image, canvas, detections)
        known, partial = self._draws(detector, canvas, detections)
        start = shapes * (known.whole - known.hidden.mean(1)).clamp(min=0)[:, None, None]
        joined = join(known, start, self.start_draws)
        maps = density_per_image_pixel(canvas, joined.values)
        errors = density_per_image_pixel(canvas, joined.standard_error)
        n_passes = int(known.n_views.sum()) + len(canvas.filling) + 1 + len(names)
        sets: list[dict[str, Any]] = [{} for _ in range(len(detections))]
        if self.decisive:
            settings = {"batch_size": self.batch_size, "precision": self.precision}
            targets = ask_about(detections, self.target)
            sets, n_more = decisive_cells(
                detector, canvas, targets, joined.values, boxes_on(canvas, detections), settings
            )
            n_passes += n_more
        cost = Cost(time.perf_counter() - clock, n_passes)
        return [
            Explanation(
                maps[i].cpu().numpy(), canvas.clean.images[0], self.name, settings_of(self), cost, detections[i],
                model=detector.describe(), standard_error=errors[i].cpu().numpy(), partial=partial,
                details={**known.record(i), "start": names, **joined.record(i), **sets[i]},
            )
            for i in range(len(detections))
        ]  # fmt: skip

    def _draws(self, detector: Adapter, canvas: Canvas, detections: Detections) -> tuple[Densities, bool]:
        shapley = RegionShapley(
            max(self.max_passes, FEWEST_PASSES), self.ignore_below, refine=self.refine, fill=self.fill, seed=self.seed,
            target=self.target, batch_size=self.batch_size, precision=self.precision, keep_partial=self.keep_partial,
            progress=self.progress,
        )  # fmt: skip
        return shapley.densities(
            detector, canvas, detections, 1 - self.tolerance, only_ends=self.max_passes < FEWEST_PASSES
        )

    def _start(
        self, detector: Adapter, image: Image, canvas: Canvas, detections: Detections
    ) -> tuple[Tensor, list[str]]:
        """The start's shape (T, h, w), each summing to 1, and what it is made of."""
        parts, names = [hills(canvas.size, boxes_on(canvas, detections))], ["box_centre"]
        if detector.has_network:
            try:
                found = LayerCAM(target=self.target)(detector, image, detections)
            except ValueError as error:  # a target of the user's own need not have gradients
                log.info("the start does without LayerCAM: %s", error)
            else:
                values = torch.stack([torch.from_numpy(one.values) for one in found]).to(canvas.clean.tensor.device)
                parts.append(canvas.from_image(values).clamp(min=0))
                names.append("layer_cam")
        sums = [part.sum((1, 2), keepdim=True) for part in parts]
        shares = [torch.where(total > 0, part / total, parts[0] / sums[0]) for part, total in zip(parts, sums)]
        return torch.stack(shares).mean(0), names


@dataclass(frozen=True, eq=False)
class Joined:
    """Draws and their start, joined.

    Attributes:
        values, standard_error: (T, h, w).
        keeps_start: (T,) bool, where the map is the start alone.
        agreement: (T, 2) in [-1, 1], how well draws that were set aside agree with the joined map of the others, and
            with the start; NaN where there are fewer than two draws.
    """

    values: Tensor
    standard_error: Tensor
    keeps_start: Tensor
    agreement: Tensor

    def record(self, box: int) -> dict[str, Any]:
        joined, start = self.agreement[box].tolist()
        told = {} if joined != joined else {"agreement": joined, "agreement_of_start": start}
        return {"kept": "start" if bool(self.keeps_start[box]) else "joined", **told}


def join(known: Densities, start: Tensor, start_draws: float) -> Joined:
    """``(sum of the draws + k S) / (n + k)``, or S alone where draws that were set aside say that it is better.

    The agreement with draws set aside is ``sum_d <D_d, B_-d> / sqrt(sum_d |D_d|^2 sum_d |B_-d|^2)``, with B_-d what all
    draws but d make. It follows from the sum of the draws and the sum of their squares, so no draw is kept.

    Args:
        known: the draws of T boxes.
        start: (T, h, w), a density of the same sum.
        start_draws: k.
    """
    n, k = known.n_draws.double(), start_draws
    joined = (known.sums + k * start) / (n + k).clamp(min=1e-9)[:, None, None].float()
    draws_squared = known.products
    both, sums_squared, start_squared = (
        (a * b).sum((1, 2), dtype=torch.float64)
        for a, b in ((known.sums, start), (known.sums, known.sums), (start, start))
    )
    others = n - 1 + k
    along = (sums_squared - draws_squared + k * both) / others
    length = (n - 2) * sums_squared + draws_squared + 2 * k * (n - 1) * both + k * k * n * start_squared
    agreement = torch.stack(
        [along * others / (draws_squared * length).sqrt(), both / (draws_squared * n * start_squared).sqrt()], 1
    )
    agreement = torch.where((n > 1)[:, None], agreement, torch.nan)
    keeps_start = (n == 0) | (agreement[:, 1] > agreement[:, 0])
    values = torch.where(keeps_start[:, None, None], start, joined)
    weight = torch.where(keeps_start, 0, n / (n + k).clamp(min=1e-9)).float()
    error = torch.where((weight > 0)[:, None, None], known.standard_error * weight[:, None, None], 0)
    return Joined(values, torch.nan_to_num(error, nan=0.0, posinf=0.0), keeps_start, agreement)


def hills(size: tuple[int, int], boxes: Tensor) -> Tensor:
    """(T, h, w): ``exp(-(dx / w)^2 - (dy / h)^2)``, d the distance to the box's centre, w and h half its sides.

    Args:
        size: (height, width) in pixels.
        boxes: (T, 4) xyxy in those pixels.
    """
    sides = []
    for axis in (1, 0):  # down, then across
        middle = (boxes[:, axis] + boxes[:, axis + 2]) / 2
        half = ((boxes[:, axis + 2] - boxes[:, axis]) / 2).clamp(min=0.5)
        pixels = torch.arange(size[1 - axis], device=boxes.device) + 0.5
        sides.append(torch.exp(-(((pixels - middle[:, None]) / half[:, None]) ** 2)))
    return sides[0][:, :, None] * sides[1][:, None, :]
