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
from detxai.adapters.own_context import in_full_precision
from detxai.detections import Detections
from detxai.engine.masking.best_pixels import try_best_pixels, views_a_map
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

    In the end both are tried on views that neither was made from: their best pixels, a quarter, half and all of the
    box's area, are shown alone, and hidden alone. Where the start does better the map is the start: it never ends
    worse than it began, and ``details["kept"]`` says which it is.

    Args:
        max_passes: views of the image for each box, on average over the boxes. Boxes whose map is known well enough
            stop early, hard ones go on. Below about 90 the map is the start.
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
    refine: int = 6
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

    @in_full_precision
    def __call__(self, detector: Adapter, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection, with the standard error of every pixel.

        Raises:
            ValueError: a setting or a label is wrong.
        """
        clock = time.perf_counter()
        if len(detections) == 0:
            return []
        canvas = Canvas.with_fills(detector, image, fills_of(self.fill), self.seed)
        targets, boxes = ask_about(detections, self.target), boxes_on(canvas, detections)
        settings = {"batch_size": self.batch_size, "precision": self.precision}
        shapes, names = self._start(detector, image, canvas, detections)
        known, partial = self._draws(detector, canvas, detections)
        n_passes = len(names) + len(canvas.filling) + 1 + int(known.n_views.sum())
        start = shapes * (known.whole - known.hidden.mean(1)).clamp(min=0)[:, None, None]
        values, errors = join(known, start, self.start_draws)
        details: list[dict[str, Any]] = [{**known.record(i), "start": names} for i in range(len(detections))]
        if not partial and bool((known.n_draws > 0).any()):
            both = torch.stack([start, values])
            tried = try_best_pixels(detector, canvas, targets, both, boxes, settings)
            n_passes += 2 * views_a_map(len(canvas.filling)) * len(targets)
            worse = (tried[1] < tried[0])[:, None, None]
            values, errors = torch.where(worse, start, values), torch.where(worse, 0, errors)
            for box, told in enumerate(details):
                told |= {"kept": "start" if bool(worse[box]) else "joined", "tried": tried[:, box].tolist()}
        if self.decisive:
            sets, n_more = decisive_cells(detector, canvas, targets, values, boxes, settings)
            n_passes += n_more
            details = [told | found for told, found in zip(details, sets, strict=True)]
        maps, bars = (density_per_image_pixel(canvas, one).cpu().numpy() for one in (values, errors))
        cost = Cost(time.perf_counter() - clock, n_passes)
        return [
            Explanation(
                maps[i], canvas.clean.images[0], self.name, settings_of(self), cost, detections[i],
                model=detector.describe(), standard_error=bars[i], partial=partial, details=details[i],
            )
            for i in range(len(detections))
        ]  # fmt: skip

    def _draws(self, detector: Adapter, canvas: Canvas, detections: Detections) -> tuple[Densities, bool]:
        """As many draws as leave views for the trial of the map; none where that is too few."""
        n_views = self.max_passes - 2 * views_a_map(len(canvas.filling)) - 1
        shapley = RegionShapley(
            max(n_views, FEWEST_PASSES), self.ignore_below, refine=self.refine, fill=self.fill, seed=self.seed,
            target=self.target, batch_size=self.batch_size, precision=self.precision, keep_partial=self.keep_partial,
            progress=self.progress,
        )  # fmt: skip
        settled, only_ends = 1 - self.tolerance, n_views < FEWEST_PASSES
        return shapley.densities(detector, canvas, detections, settled, only_ends=only_ends)

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


def join(known: Densities, start: Tensor, start_draws: float) -> tuple[Tensor, Tensor]:
    """``(sum of the draws + k S) / (n + k)`` and its standard error, (T, h, w) both; S alone where there are no draws.

    Args:
        known: the draws of T boxes.
        start: (T, h, w), a density of the same sum.
        start_draws: k.
    """
    n = known.n_draws[:, None, None].float()
    weight = torch.where(n > 0, n / (n + start_draws).clamp(min=1), 0)
    error = torch.where(n > 1, known.standard_error, 0) * weight
    return torch.lerp(start, known.mean, weight), error


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
