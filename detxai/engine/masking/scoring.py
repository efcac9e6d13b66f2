"""The scores of every target under view after view of one image: the hot loop of black-box methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.engine.ablation.loop import autocast
from detxai.engine.batching import in_batches
from detxai.engine.masking.perturbing import Canvas
from detxai.targets import Target, score_targets


def scores_under(
    masks: Callable[[Tensor], Tensor],
    numbers: Sequence[int] | Tensor,
    detector: Detector,
    canvas: Canvas,
    targets: Sequence[Target],
    *,
    fills: Tensor | None = None,
    asked: Tensor | None = None,
    batch_size: int | None = None,
    precision: str = "full",
    channels_last: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Ask T targets of the image under each mask, in batches; nothing comes back to the host in between.

    The answer under a mask depends on nothing but its number, so the numbers may be shared out over processes.

    Args:
        masks: from numbers (B,), on the canvas's device, to masks (B, height, width) of the canvas's size, in [0, 1].
        numbers: (n,) which masks.
        detector: what looks at them.
        canvas: the image and what stands where it is hidden.
        targets: T questions.
        fills: (n,) int64, which of the canvas's fillings each mask shows; None: the first.
        asked: (n,) int64, the one target that each view is made for; None: every view is for all. A sliced detector
            looks only at what that one reads, so the scores of the others are NaN.
        batch_size: masked images at once; None: what fits the device. Running out of memory halves it.
        precision: ``"full"``, ``"bf16"`` or ``"fp16"`` autocast.
        channels_last: hand the detector its images in that memory format.

    Yields:
        How many of the numbers came before, and the scores (T, B) float32 of the next B.
    """
    device = canvas.clean.tensor.device
    wanted = torch.as_tensor(numbers, device=device)

    def run(places: Tensor) -> Tensor:
        inputs = canvas.inputs(masks(wanted[places]), None if fills is None else fills[places])
        if channels_last:
            inputs = replace(inputs, tensor=inputs.tensor.contiguous(memory_format=torch.channels_last))
        # entered and left for each batch: a generator that yields inside a context imposes it on its consumer
        with detector.borrowed(), torch.no_grad(), autocast(device, precision):
            own = None if asked is None else asked[places]
            scores = score_targets(targets, canvas.candidates(detector, inputs, targets, own, batch_size)).float()
            return scores if own is None else scores.masked_fill(every[:, None] != own, torch.nan)

    done = 0
    places, every = torch.arange(len(wanted), device=device), torch.arange(len(targets), device=device)
    for part, scores in in_batches(places, batch_size or canvas.views_at_once, run):
        yield done, scores
        done += len(part)


def scores_of_ends(
    detector: Detector, canvas: Canvas, targets: Sequence[Target], settings: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The scores with nothing shown, (T, F) for each of the canvas's F fillings, and of the whole image, (T,).

    Args:
        detector: what is asked.
        canvas: the image and its fillings.
        targets: T questions.
        settings: of ``scores_under``.
    """
    n_fills, device = len(canvas.filling), canvas.clean.tensor.device
    views = torch.arange(n_fills + 1, device=device)
    keep = (views == n_fills).float()[:, None, None].expand(-1, *canvas.size)
    found = scores_under(lambda part: keep[part], views, detector, canvas, targets, fills=views % n_fills, **settings)
    scores = torch.cat([some for _, some in found], 1)
    return scores[:, :-1], scores[:, -1]
