"""The scores of every target under mask after mask of one image: D-RISE's hot loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from detxai.adapters.adapter import Adapter
from detxai.engine.ablation import autocast
from detxai.engine.batching import images_at_once, in_batches
from detxai.engine.masks import RiseMasks
from detxai.engine.perturbing import Canvas
from detxai.targets import Target, score_targets


def scores_under(
    masks: RiseMasks,
    numbers: Sequence[int] | Tensor,
    detector: Adapter,
    canvas: Canvas,
    targets: Sequence[Target],
    *,
    batch_size: int | None = None,
    precision: str = "full",
    channels_last: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Ask T targets of the image under each mask, in batches; nothing comes back to the host in between.

    The answer under a mask depends on nothing but its number, so the numbers may be shared out over processes.

    Args:
        masks: of the canvas's size.
        numbers: (n,) which masks.
        detector: what looks at them.
        canvas: the image and what stands where it is hidden.
        targets: T questions.
        batch_size: masked images at once; None: what fits the device. Running out of memory halves it.
        precision: ``"full"``, ``"bf16"`` or ``"fp16"`` autocast.
        channels_last: hand the detector its images in that memory format.

    Yields:
        How many of the numbers came before, and the scores (T, B) float32 of the next B.
    """
    device = canvas.clean.tensor.device
    wanted = torch.as_tensor(numbers, device=device)

    def run(part: Tensor) -> Tensor:
        inputs = canvas.inputs(masks(part))
        if channels_last:
            inputs = replace(inputs, tensor=inputs.tensor.contiguous(memory_format=torch.channels_last))
        # entered and left for each batch: a generator that yields inside a context imposes it on its consumer
        with detector.borrowed(), torch.no_grad(), autocast(device, precision):
            return score_targets(targets, detector.candidates(inputs)).float()

    done = 0
    for part, scores in in_batches(wanted, batch_size or images_at_once(canvas.clean.tensor), run):
        yield done, scores
        done += len(part)
