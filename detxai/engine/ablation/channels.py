"""Which channels there are, and which of them to ablate first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from detxai.adapters.detector import Features
from detxai.adapters.network import NetworkDetector
from detxai.engine.gradients import NoGradientsError, Trace, gradients_of_each
from detxai.targets import Target

Fill: TypeAlias = "Literal['zero', 'mean'] | float"
Ranking: TypeAlias = "Literal['tracked', 'first_order', 'energy'] | Callable[[Features], Tensor]"


@dataclass(frozen=True)
class Channels:
    """All channels of some levels, numbered through in pyramid order.

    Attributes:
        levels: level names.
        counts: channels of each level.
    """

    levels: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def from_features(cls, features: Features) -> Channels:
        return cls(tuple(features.levels), tuple(level.shape[1] for level in features.levels.values()))

    def __len__(self) -> int:
        return sum(self.counts)

    def by_level(self, chosen: Tensor) -> list[tuple[str, Tensor, Tensor]]:
        """Chosen channel numbers (n,), level by level: name, places in ``chosen``, channel within the level."""
        groups, start = [], 0
        for level, count in zip(self.levels, self.counts, strict=True):
            places = ((chosen >= start) & (chosen < start + count)).nonzero().flatten()
            if len(places):
                groups.append((level, places, chosen[places] - start))
            start += count
        return groups

    def split(self, per_channel: Tensor) -> dict[str, Tensor]:
        """Values (..., C) of all channels, as level name -> (..., C_l)."""
        return dict(zip(self.levels, per_channel.split(list(self.counts), dim=-1), strict=True))


def all_levels(groups: Sequence[Features]) -> Features:
    """All levels of several groups of layers of one image: to read, and to resume from only where it is one group."""
    if len(groups) == 1:
        return groups[0]
    levels = {name: level for group in groups for name, level in group.levels.items()}
    layers = tuple(layer for group in groups for layer in group.layers)
    return Features(levels, layers, groups[0].inputs)


def fill_values(features: Features, fill: Fill) -> Tensor:
    """(C,) what each channel is set to when it is ablated: 0, its mean over places, or a number.

    Raises:
        ValueError: ``fill`` is none of these.
    """
    levels = features.levels.values()
    if fill == "zero":
        return torch.cat([level.new_zeros(level.shape[1]) for level in levels])
    if fill == "mean":
        return torch.cat([level[0].mean((1, 2)) for level in levels])
    if isinstance(fill, (int, float)) and not isinstance(fill, bool) and math.isfinite(fill):
        return torch.cat([level.new_full((level.shape[1],), float(fill)) for level in levels])
    raise ValueError(f"fill must be 'zero', 'mean' or a finite number, got {fill!r}")


def n_to_ablate(ratio: float, n_channels: int) -> int:
    """How many channels a ratio means: ``ceil(ratio * n_channels)``.

    >>> n_to_ablate(0.1, 1280), n_to_ablate(0.0001, 1280), n_to_ablate(1.0, 1280)
    (128, 1, 1280)
    """
    # 0.1 * 30 is 3.0000000000000004: round off what binary fractions add before rounding up
    return math.ceil(round(ratio * n_channels, 9))


def order_channels(
    detector: NetworkDetector, groups: Sequence[Features], targets: Sequence[Target], fill: Tensor, ranking: Ranking
) -> Tensor:
    """All channel numbers (C,), those expected to matter most to the targets first.

    Args:
        groups: features of one image; a change in one group of layers runs on through the others.
        ranking: ``"first_order"``: the drop that one backward pass predicts, summed over targets;
            ``"energy"``: how far the channel is from its fill, for detectors without gradients;
            a callable from features to a (C,) tensor, larger first;
            or ``"tracked"``, where nothing could be tracked: first_order, or energy where there are no gradients.
        fill: (C,) what ablated channels are set to.

    Raises:
        ValueError: an unknown ranking, or a callable that returns anything but C finite numbers.
    """
    if ranking == "tracked":
        try:
            importance = _first_order(detector, groups, targets, fill)
        except NoGradientsError:
            importance = _energy(all_levels(groups), fill)
    elif ranking == "first_order":
        importance = _first_order(detector, groups, targets, fill)
    elif ranking == "energy":
        importance = _energy(all_levels(groups), fill)
    elif callable(ranking):
        importance = torch.as_tensor(ranking(all_levels(groups))).detach()
        if importance.shape != fill.shape or not bool(torch.isfinite(importance).all()):
            raise ValueError(
                f"ranking must return {len(fill)} finite numbers, one for each channel, got {tuple(importance.shape)}"
            )
    else:
        raise ValueError(f"ranking must be 'tracked', 'first_order', 'energy' or a callable, got {ranking!r}")
    return importance.argsort(descending=True, stable=True)


def distance_to_fill(features: Features, fill: Tensor) -> Mapping[str, Tensor]:
    """Level -> (1, C, h, w) what ablating each channel takes away: the feature less its fill (C,)."""
    fills = Channels.from_features(features).split(fill)
    return {name: level - fills[name][None, :, None, None] for name, level in features.levels.items()}


def _energy(features: Features, fill: Tensor) -> Tensor:
    # a level's places are many or few: the mean makes levels comparable
    return torch.cat([d.square().mean((0, 2, 3)) for d in distance_to_fill(features, fill).values()])


def predicted_drops(
    detector: NetworkDetector, groups: Sequence[Features], targets: Sequence[Target], fill: Tensor
) -> Tensor:
    """(T, C) the drop of each target's score that its gradient predicts for each channel: one backward pass a target.

    Raises:
        NoGradientsError: the targets have none.
    """
    distances = distance_to_fill(all_levels(groups), fill)
    drops = []
    for group in groups:
        trace, scores = _traced_scores(detector, group, targets)
        away = [distances[name] for name in group.levels]
        gradients = gradients_of_each(scores, list(trace.levels.values()))
        drops.append(torch.stack([_products(row, away, lambda part: part.sum((0, 2, 3))) for row in gradients]))
    return torch.cat(drops, 1).detach()


def _first_order(
    detector: NetworkDetector, groups: Sequence[Features], targets: Sequence[Target], fill: Tensor
) -> Tensor:
    """(C,) how much all scores together, each as a share of itself, change to first order with each channel."""
    distances = distance_to_fill(all_levels(groups), fill)
    importance = []
    for group in groups:
        trace, traced = _traced_scores(detector, group, targets)
        with torch.enable_grad():
            scores = torch.stack(traced)
            total = (scores / scores.detach().abs().clamp(min=torch.finfo(scores.dtype).eps)).sum()
        (gradients,) = gradients_of_each([total], list(trace.levels.values()))
        away = [distances[name] for name in group.levels]
        # absolute values before the sum over places: targets lie at different places and must not cancel
        importance.append(_products(gradients, away, lambda part: part.sum(0).abs().sum((1, 2))))
    return torch.cat(importance)


def _traced_scores(
    detector: NetworkDetector, features: Features, targets: Sequence[Target]
) -> tuple[Trace, list[Tensor]]:
    trace = Trace.from_levels(detector, features)
    scores = trace.scores(targets)
    if not all(score.requires_grad for score in scores):
        raise NoGradientsError("ranking 'first_order' needs targets with gradients, got none; use ranking='energy'")
    return trace, scores


def _products(
    gradients: Sequence[Tensor], distances: Sequence[Tensor], over_places: Callable[[Tensor], Tensor]
) -> Tensor:
    """(C,) of gradient times distance (1, C, h, w), level by level."""
    return torch.cat([over_places(g * d) for g, d in zip(gradients, distances, strict=True)])
