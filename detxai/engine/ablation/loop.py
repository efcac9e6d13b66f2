"""One loop over the channels to ablate, whatever the detector."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm

from detxai.engine.ablation.channels import Channels
from detxai.engine.ablation.tail import Tail
from detxai.engine.batching import batch_size_for, in_batches


@dataclass
class AblatedScores:
    """The targets' scores, channel by channel, as far as they are known.

    Attributes:
        clean: (T,).
        ablated: (T, C); NaN where a channel has not been ablated.
        passes: ablations done, each one pass through the tail or a part of it.
        predicted: (T, C) drops to go by where a channel has not been ablated; None: none.
    """

    clean: Tensor
    ablated: Tensor
    passes: int = field(default=0)
    predicted: Tensor | None = None

    @classmethod
    def unknown(cls, tail: Tail, n_channels: int, predicted: Tensor | None = None) -> AblatedScores:
        """Before any ablation."""
        return cls(tail.clean, tail.clean.new_full((len(tail.clean), n_channels), torch.nan), predicted=predicted)

    @property
    def drops(self) -> Tensor:
        """(T, C) how much of each score goes away when each channel does."""
        return self.clean[:, None] - self.ablated


def ablate(
    tail: Tail,
    channels: Channels,
    chosen: Tensor,
    fill: Tensor,
    scores: AblatedScores,
    *,
    batch_size: int | None = None,
    bar: tqdm | None = None,
) -> None:
    """Ablate the chosen channels one at a time and write the targets' scores into ``scores``.

    Args:
        tail: of the detector.
        channels: all channels there are.
        chosen: (n,) channel numbers.
        fill: (C,) what each channel is set to.
        batch_size: ablations at once; None: what fits the device.
        bar: moves on by one for each ablation.
    """
    for level, places, within in channels.by_level(chosen):
        numbers = chosen[places]
        size = batch_size or batch_size_for(fill.device, tail.bytes_per_item(level), tail.cpu_batch)

        def run(part: Tensor, level: str = level, numbers: Tensor = numbers, within: Tensor = within) -> Tensor:
            return tail.scores(level, within[part], fill[numbers[part]])

        for part, answer in in_batches(torch.arange(len(within), device=fill.device), size, run):
            scores.ablated[:, numbers[part]] = answer.to(scores.ablated.dtype)
            scores.passes += len(part)
            if bar is not None:
                bar.update(len(part))
