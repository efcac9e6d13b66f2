"""The channels that are enough to keep a box, and of which none can be dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detxai.adapters.detector import Detector, Features
from detxai.adapters.network import require_network
from detxai.concepts.channels.important import named_channels
from detxai.concepts.channels.layer_pass import Channel
from detxai.concepts.channels.minimal_sets import Sets, minimal_set
from detxai.detections import Detections
from detxai.engine.ablation.channels import Channels, Fill, fill_values
from detxai.engine.ablation.full_tail import FullTail
from detxai.engine.batching import batch_size_for, check_batch_size, in_batches
from detxai.images import Image
from detxai.methods.ablation_cam import AblationCAM
from detxai.methods.checks import check_fraction
from detxai.progress import progress_bar
from detxai.targets import ClassScoreTarget, ask_about


@dataclass(frozen=True)
class SufficientChannels:
    """A minimal sufficient set of channels for one box.

    Attributes:
        channels: the set, those of the largest single effect first.
        n_channels: how many channels there are.
        score: of the box with these channels alone.
        clean_score: with all of them.
        passes: sets that were tried, each one pass through all that lies behind the layers.
    """

    channels: list[Channel]
    n_channels: int
    score: float
    clean_score: float
    passes: int

    def __str__(self) -> str:
        """In words."""
        return (
            f"{len(self.channels)} of {self.n_channels} channels keep this box: a score of {self.score:.2f} "
            f"of {self.clean_score:.2f}"
        )

    def as_json(self) -> dict[str, Any]:
        """All of it, the channels by name."""
        return {**vars(self), "channels": [str(channel) for channel in self.channels]}


def sufficient_channels(
    detector: Detector,
    image: Image | Features,
    detection: Detections,
    layers: Sequence[str] | None = None,
    *,
    keeps: float = 0.5,
    fill: Fill = "zero",
    batch_size: int | None = None,
    progress: bool | None = None,
) -> SufficientChannels:
    """A set of channels that keeps a box with all others ablated, while no set with one of them less does.

    A box is kept where its score (``ClassScoreTarget``) is at least ``keeps`` of the clean one. Each set is tried by an
    exact ablation: everything behind the layers is computed again. The set is minimal, not the smallest there is: see
    ``minimal_set``.

    Args:
        detector: a network.
        image: one image.
        detection: one box of it.
        layers: names of layers; None: the adapter's.
        keeps: share of the clean score, in (0, 1].
        fill: what ablated channels are set to, as in ``AblationCAM``.
        batch_size: sets at once; None: what fits the device.
        progress: a bar; None: where standard error is a terminal.

    Raises:
        ValueError: a setting is wrong, or the score is 0.
        LookupError: an unknown layer.
        TypeError: the detector is a black box.
    """
    check_fraction("keeps", keeps, "(0, 1]")
    check_batch_size(batch_size)
    if len(detection) != 1:
        raise ValueError(f"detection must be one box, such as detections[0], got {len(detection)}")
    network = require_network(detector)
    names = network.layer_names(None if layers is None else tuple(layers))
    # half precision rounds off what single channels do
    with network.borrowed(), torch.no_grad(), torch.autocast(network.device.type, enabled=False):
        features = network.features(image, names)
        (explanation,) = AblationCAM(layers=names, fill=fill, batch_size=batch_size, progress=progress)(
            network, features, detection
        )
        sets = _ChannelSets(FullTail(network, features, ask_about(detection, ClassScoreTarget)), fill, batch_size)
        clean = float(sets.tail.clean[0])
        if clean <= 0:
            raise ValueError("detection must be a box that the detector scores, got a score of 0")
        order = torch.as_tensor(explanation.channel_effects).argsort(descending=True, stable=True).tolist()
        with progress_bar(progress, len(order), "trying sets of channels", "set") as bar:

            def test(tried: Sets) -> list[bool]:
                bar.update(len(tried))
                # the clean score itself passes, however it is rounded in another batch
                return [score >= keeps * clean * (1 - 1e-5) for score in sets.scores(tried)]

            found = minimal_set(order, test)
        (score,) = sets.scores([found])
    channels = named_channels(sets.channels)
    return SufficientChannels([channels[place] for place in found], len(channels), score, clean, sets.passes)


class _ChannelSets:
    """Scores of one box with sets of channels alone."""

    def __init__(self, tail: FullTail, fill: Fill, batch_size: int | None) -> None:
        self.tail, self.batch_size, self.passes = tail, batch_size, 0
        self.channels = Channels.from_features(tail.features)
        self.fill = fill_values(tail.features, fill)

    def scores(self, sets: Sets) -> list[float]:
        """The score of each set of channel numbers, all others ablated."""
        kept = torch.zeros(len(sets), len(self.channels), dtype=torch.bool, device=self.fill.device)
        for row, members in zip(kept, sets, strict=True):
            row[list(members)] = True
        self.passes += len(sets)
        level = self.channels.levels[0]
        size = self.batch_size or batch_size_for(self.fill.device, self.tail.bytes_per_item(level))
        parts = in_batches(kept, size, self._part)
        return [score for _, found in parts for score in found.tolist()]

    def _part(self, kept: Tensor) -> Tensor:
        return self.tail.scores_of_sets(kept, self.fill)[0]
