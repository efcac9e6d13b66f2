"""One loop over the channels to ablate, whatever the detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from detxai.adapters.detector import Features
from detxai.adapters.network import NetworkDetector
from detxai.detections import Candidates
from detxai.engine.ablation.channels import Channels
from detxai.engine.batching import ACTIVATIONS, CPU_MOST, batch_size_for, in_batches, is_out_of_memory
from detxai.targets import Target, score_targets


class Tail(Protocol):
    """What is left of a detector behind the ablated levels, asked about some targets of one image."""

    @property
    def details(self) -> Mapping[str, str]:
        """``kind``: which tail it is; ``reason``: why no quicker one, where that is worth saying."""

    @property
    def clean(self) -> Tensor:
        """(T,) the targets' scores without any ablation."""

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        """(T, B): the targets' scores with one channel of ``level`` set to a value, for each of B channels."""

    def bytes_each(self, level: str) -> int:
        """About how much memory one ablation of a batch takes."""

    @property
    def cpu_most(self) -> int:
        """Ablations at once past which a CPU gains nothing."""


class FullTail:
    """Any adapter that can resume: the whole tail, no shortcuts, batched where the model treats each image by itself.

    Args:
        reason: why not a quicker one.
    """

    cpu_most = CPU_MOST

    def __init__(
        self, detector: NetworkDetector, features: Features, targets: Sequence[Target], reason: str | None = None
    ) -> None:
        self.detector, self.features, self.targets = detector, features, targets
        self.details = {"kind": "full", "reason": reason or "the adapter describes no network behind these layers"}
        self.clean = score_targets(targets, self.resumed(features))[:, 0]
        self._one_by_one = self._mixes_images()

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        parts = range(len(channels)) if self._one_by_one else [slice(None)]
        return torch.cat([self._scores(level, channels[part].reshape(-1), fill[part].reshape(-1)) for part in parts], 1)

    def _scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        changed = self.features.levels[level].repeat(len(channels), 1, 1, 1)
        changed[torch.arange(len(channels)), channels] = fill[:, None, None]
        return score_targets(self.targets, self.resumed(self.features.with_levels({level: changed})))

    def _mixes_images(self) -> bool:
        """Whether an image's answer depends on what stands beside it, as with statistics of the batch."""
        beside = {name: torch.cat([level, level * 0]) for name, level in self.features.levels.items()}
        try:
            together = score_targets(self.targets, self.resumed(self.features.with_levels(beside)))[:, 0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return True  # there is room for one at a time, whatever two would come to
        return not bool(torch.isclose(together, self.clean, rtol=1e-3, atol=1e-6, equal_nan=True).all())

    def resumed(self, features: Features) -> Candidates:
        """The candidates behind these features."""
        return self.detector.resume(features)

    def bytes_each(self, level: str) -> int:
        pyramid = sum(tensor.numel() * tensor.element_size() for tensor in self.features.levels.values())
        image = self.features.inputs.tensor[0]
        # the levels and what their convolutions make of them; from an early layer, or one inside another, nearly all of
        # a full pass is run again
        return max(12 * pyramid, ACTIVATIONS * image.numel() * image.element_size())


class GroupedTail:
    """Several tails behind different layers of one detector, each with the layers of the others computed anew.

    Args:
        tails: level -> the tail behind it.
    """

    def __init__(self, tails: Mapping[str, Tail]) -> None:
        self.tails = tails
        parts = list(tails.values())
        self.clean = parts[0].clean
        self.cpu_most = min(part.cpu_most for part in parts)
        details = [part.details for part in parts]
        # the slowest tells the reason
        self.details = next((each for each in details if "reason" in each), details[0])

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        return self.tails[level].scores(level, channels, fill)

    def bytes_each(self, level: str) -> int:
        return self.tails[level].bytes_each(level)


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
    def unknown(cls, tail: Tail, n_channels: int) -> AblatedScores:
        """Before any ablation."""
        return cls(tail.clean, tail.clean.new_full((len(tail.clean), n_channels), torch.nan))

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
        size = batch_size or batch_size_for(fill.device, tail.bytes_each(level), tail.cpu_most)

        def run(part: Tensor, level: str = level, numbers: Tensor = numbers, within: Tensor = within) -> Tensor:
            return tail.scores(level, within[part], fill[numbers[part]])

        for part, answer in in_batches(torch.arange(len(within), device=fill.device), size, run):
            scores.ablated[:, numbers[part]] = answer.to(scores.ablated.dtype)
            scores.passes += len(part)
            if bar is not None:
                bar.update(len(part))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which a tail computes at ``precision``: ``"full"`` (the model's own), ``"bf16"``, ``"fp16"``.

    Raises:
        ValueError: an unknown precision.
    """
    kinds = {"full": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in kinds:
        raise ValueError(f"precision must be one of {list(kinds)}, got {precision!r}")
    kind = kinds[precision]
    return nullcontext() if kind is None else torch.autocast(device.type, kind)
