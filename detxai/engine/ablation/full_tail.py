"""The full tail: any detector that can resume, without shortcuts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detxai.adapters.detector import Features
from detxai.adapters.network import NetworkDetector
from detxai.detections import Candidates
from detxai.engine.ablation.channels import Channels
from detxai.engine.ablation.tail import Tail
from detxai.engine.batching import ACTIVATIONS, is_out_of_memory
from detxai.targets import Target, score_targets


class FullTail(Tail):
    """All that lies behind the ablated levels, in batches where the model treats each image by itself.

    Args:
        reason: why it is not a quicker tail.

    Attributes:
        mixes_images: whether an image's answer depends on what else is in its batch.
    """

    def __init__(
        self, detector: NetworkDetector, features: Features, targets: Sequence[Target], reason: str | None = None
    ) -> None:
        self.detector, self.features, self.targets = detector, features, targets
        self.details = {"kind": "full", "reason": reason or "the adapter describes no network behind these layers"}
        self.clean = score_targets(targets, self.resumed(features))[:, 0]
        self.mixes_images = self._mixes_images()

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        parts = range(len(channels)) if self.mixes_images else [slice(None)]
        return torch.cat([self._scores(level, channels[part].reshape(-1), fill[part].reshape(-1)) for part in parts], 1)

    def _scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        changed = self.features.levels[level].repeat(len(channels), 1, 1, 1)
        changed[torch.arange(len(channels)), channels] = fill[:, None, None]
        return score_targets(self.targets, self.resumed(self.features.with_levels({level: changed})))

    def scores_of_sets(self, kept: Tensor, fill: Tensor) -> Tensor:
        """(T, B): the targets' scores with all channels but B sets of them ablated at once.

        Args:
            kept: (B, C) bool, all levels' channels in pyramid order: those that stay.
            fill: (C,) what the others are set to.
        """
        if self.mixes_images and len(kept) > 1:
            return torch.cat([self.scores_of_sets(row, fill) for row in kept.split(1)], 1)
        channels = Channels.from_features(self.features)
        fills, levels = channels.split(fill), {}
        for name, shown in channels.split(kept).items():
            level = self.features.levels[name]
            levels[name] = torch.where(shown[:, :, None, None], level, fills[name][None, :, None, None].to(level))
        return score_targets(self.targets, self.resumed(self.features.with_levels(levels)))

    def _mixes_images(self) -> bool:
        """Whether an image's answer depends on what else is in its batch, as with statistics of the batch."""
        doubled = {name: torch.cat([level, level * 0]) for name, level in self.features.levels.items()}
        try:
            together = score_targets(self.targets, self.resumed(self.features.with_levels(doubled)))[:, 0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return True  # there is room for one at a time, whatever two would come to
        return not bool(torch.isclose(together, self.clean, rtol=1e-3, atol=1e-6, equal_nan=True).all())

    def resumed(self, features: Features) -> Candidates:
        """The candidates behind these features."""
        return self.detector.resume(features)

    def bytes_per_item(self, level: str) -> int:
        pyramid = sum(tensor.numel() * tensor.element_size() for tensor in self.features.levels.values())
        image = self.features.inputs.tensor[0]
        # the levels and what their convolutions make of them; from an early layer, or one inside another, nearly all of
        # a full pass is run again
        return max(12 * pyramid, ACTIVATIONS * image.numel() * image.element_size())
