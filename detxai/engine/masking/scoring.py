"""The scores of every target in view after view of one image: the hot loop of black-box methods and of measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from detxai.adapters.detector import Detector, Inputs
from detxai.detections import Candidates
from detxai.engine.batching import in_batches, prefers_loop
from detxai.engine.masking.canvas import Canvas
from detxai.engine.precision import autocast
from detxai.targets import Target, score_targets

PAIRS_AT_ONCE = 2**22  # of a target and a candidate: their boxes and overlaps take some 60 bytes for each
GPU_PAIRS = 8  # times as many on a GPU, which would wait for small kernels


@dataclass(frozen=True, eq=False)
class ViewScorer:
    """T targets asked of views of one image, in batches; nothing comes back to the host in between.

    A view is the image under a mask, or any other version of it. Masks are made batch by batch from their numbers, so
    that they are never all in memory; a view's score depends on nothing but its number, so that the numbers may be
    shared out over processes.

    Args:
        detector: what is asked.
        canvas: the image and what stands where it is hidden.
        targets: T questions.
        batch_size: views at once; None: what fits the device. Running out of memory halves it.
        precision: ``"full"``, ``"bf16"`` or ``"fp16"`` autocast.
        channels_last: hand the detector its images in that memory format.
        on_views: called with the number of views after every batch, such as a progress bar's ``update``.
    """

    detector: Detector
    canvas: Canvas
    targets: Sequence[Target]
    batch_size: int | None = None
    precision: str = "full"
    channels_last: bool = False
    on_views: Callable[[int], object] | None = None

    def under_masks(
        self, masks: Callable[[Tensor], Tensor], numbers: Sequence[int] | Tensor, fills: Tensor | None = None
    ) -> Tensor:
        """(T, n) float32: every target's score under each mask.

        Args:
            masks: from numbers (B,), on the canvas's device, to masks (B, height, width) of the canvas's size, in
                [0, 1]: 1 shows the image.
            numbers: (n,) which masks.
            fills: (n,) int64, which of the canvas's fillings each mask shows; None: the first.
        """
        return self._together(self.batches(masks, numbers, fills))

    def own_under_masks(
        self,
        masks: Callable[[Tensor], Tensor],
        numbers: Sequence[int] | Tensor,
        asked: Tensor,
        fills: Tensor | None = None,
    ) -> Tensor:
        """(n,) float32: under each mask the score of the one target that the mask is made for.

        Args:
            masks, numbers, fills: as for ``under_masks``.
            asked: (n,) int64, the number of each mask's target.
        """
        return self._own(self.batches(masks, numbers, fills, asked), asked)

    def of_views(self, views: Callable[[Tensor], Inputs], n: int, asked: Tensor | None = None) -> Tensor:
        """(T, n) float32: every target's score in each of n views; with ``asked`` (n,) only each view's own: (n,).

        Args:
            views: from view numbers (B,), on the canvas's device, to the views as the model reads them.
            n: how many views.
            asked: (n,) int64, the number of each view's target.
        """
        found = self._batches(views, torch.arange(n, device=self._device), asked)
        return self._together(found) if asked is None else self._own(found, asked)

    def ends(self) -> tuple[Tensor, Tensor]:
        """The scores with nothing shown, (T, F) for each of the canvas's F fillings, and of the whole image, (T,)."""
        n_fills = len(self.canvas.filling)
        views = torch.arange(n_fills + 1, device=self._device)
        keep = (views == n_fills).float()[:, None, None].expand(-1, *self.canvas.size)
        scores = self.under_masks(lambda part: keep[part], views, views % n_fills)
        return scores[:, :-1], scores[:, -1]

    def batches(
        self,
        masks: Callable[[Tensor], Tensor],
        numbers: Sequence[int] | Tensor,
        fills: Tensor | None = None,
        asked: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The scores (T, B) float32 under the masks, a batch at a time; what a mask is not ``asked`` is NaN."""
        wanted = torch.as_tensor(numbers, device=self._device)

        def views(places: Tensor) -> Inputs:
            return self.canvas.inputs(masks(wanted[places]), None if fills is None else fills[places])

        return self._batches(views, torch.arange(len(wanted), device=self._device), asked)

    def _batches(self, views: Callable[[Tensor], Inputs], places: Tensor, asked: Tensor | None) -> Iterator[Tensor]:
        def run(part: Tensor) -> Tensor:
            inputs = views(part)
            if self.channels_last:
                inputs = replace(inputs, tensor=inputs.tensor.contiguous(memory_format=torch.channels_last))
            # entered and left for each batch: a generator that yields inside a context imposes it on its consumer
            with self.detector.borrowed(), torch.no_grad(), autocast(self._device, self.precision):
                own = None if asked is None else asked[part]
                found = self.canvas.candidates(self.detector, inputs, self.targets, own, self.batch_size)
                return score_all(self.targets, found) if own is None else score_own(self.targets, found, own)

        for _, scores in in_batches(places, self.batch_size or self.canvas.views_at_once, run):
            yield scores
            if self.on_views is not None:
                self.on_views(scores.shape[1])

    def _together(self, batches: Iterator[Tensor]) -> Tensor:
        none = self.canvas.clean.tensor.new_zeros(len(self.targets), 0, dtype=torch.float32)
        return torch.cat([none, *batches], 1)

    def _own(self, batches: Iterator[Tensor], asked: Tensor) -> Tensor:
        return self._together(batches).gather(0, asked[None])[0]

    @property
    def _device(self) -> torch.device:
        return self.canvas.clean.tensor.device


def score_all(targets: Sequence[Target], candidates: Candidates) -> Tensor:
    """(T, B) float32: every target asked of every image, as many targets at a time as memory allows."""
    pairs = PAIRS_AT_ONCE * (1 if candidates.boxes.device.type == "cpu" else GPU_PAIRS)
    at_once = max(1, pairs // max(1, candidates.boxes.shape[:2].numel()))
    if len(targets) <= at_once:
        return score_targets(targets, candidates).float()
    parts = range(0, len(targets), at_once)
    return torch.cat([score_targets(targets[start : start + at_once], candidates) for start in parts]).float()


def score_own(targets: Sequence[Target], candidates: Candidates, asked: Tensor) -> Tensor:
    """(T, B) float32: each image asked one target, ``asked`` (B,); NaN for all others."""
    if prefers_loop(candidates.boxes.device):  # where reading ``asked`` waits for nothing, the others are not computed
        own = torch.cat(list(_score_runs(targets, candidates, asked.tolist()))).float()
    else:
        own = score_all(targets, candidates).gather(0, asked[None])[0]
    return own.new_full((len(targets), len(own)), torch.nan).scatter_(0, asked[None], own[None])


def _score_runs(targets: Sequence[Target], candidates: Candidates, asked: Sequence[int]) -> Iterator[Tensor]:
    """Neighbouring images that are asked the same target are asked together."""
    start = 0
    for target, images in groupby(asked):
        stop = start + sum(1 for _ in images)
        yield score_targets([targets[target]], candidates[start:stop])[0]
        start = stop
