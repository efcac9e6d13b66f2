"""Features drawn at the cells that matter to the boxes of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detxai.adapters.detector import Features
from detxai.adapters.network import NetworkDetector
from detxai.detections import Detections
from detxai.engine.concepts.concept_file import shared_levels
from detxai.engine.gradients import NoGradientsError, Trace
from detxai.targets import ClassScoreTarget, ask_about


@dataclass(frozen=True)
class Sampling:
    """How many cells of each box are drawn, from each set of levels that share concepts.

    Attributes:
        n_relevant: cells drawn with a probability in proportion to what they add to the box's score, to first order
            ``|sum_c dy/dx_c (x_c - mean_c)|``: a small mark that decides is then seen as often as a large background.
        n_anywhere: cells drawn from the whole image with equal probability: what does not matter is a concept too,
            and without it everything would look relevant.
    """

    n_relevant: int = 32
    n_anywhere: int = 16


def sampled_cells(
    detector: NetworkDetector, features: Features, detections: Detections, sampling: Sampling, seed: int
) -> dict[str, Tensor]:
    """Cells of every set of levels that share concepts, and the label of the box that each was drawn for.

    Args:
        detector: a network.
        features: of one image.
        detections: T boxes.
        sampling: how many.
        seed: of the draws; the image's own.

    Returns:
        ``"0.cells"`` (n, C), ``"0.labels"`` (n,) int64, ``"1.cells"``, ...: by the number of the set of levels.
    """
    relevance = _relevance(detector, features, detections)
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, Tensor] = {}
    for place, names in enumerate(shared_levels(features.levels)):
        cells = torch.cat([features.levels[name][0].flatten(1).T.cpu().float() for name in names])
        chosen, labels = [], []
        for number, label in enumerate(detections.labels.tolist()):
            weights = torch.cat([relevance[number][name].flatten() for name in names])
            picked = _drawn(weights, sampling, generator)
            chosen.append(picked)
            labels += [label] * len(picked)
        picked = torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.int64)
        drawn |= {f"{place}.cells": cells[picked], f"{place}.labels": torch.tensor(labels, dtype=torch.int64)}
    return drawn


def _drawn(weights: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    n_relevant = min(sampling.n_relevant, int((weights > 0).sum()))
    parts = []
    if n_relevant:
        parts.append(torch.multinomial(weights, n_relevant, generator=generator))
    parts.append(torch.randperm(len(weights), generator=generator)[: sampling.n_anywhere])
    return torch.cat(parts)


def _relevance(detector: NetworkDetector, features: Features, detections: Detections) -> Sequence[dict[str, Tensor]]:
    """For each box: level -> (h, w) float64, what each cell adds to its score to first order; without gradients 1."""
    even = {name: torch.ones(level.shape[2:], dtype=torch.float64) for name, level in features.levels.items()}
    if len(detections) == 0:
        return []
    with detector.borrowed():
        trace = Trace.from_levels(detector, features)
        found = []
        for score in trace.scores(ask_about(detections, ClassScoreTarget)):
            try:
                gradients = trace.gradients(score)
            except NoGradientsError:
                found.append(even)
                continue
            found.append(
                {
                    name: (gradient * (level - level.mean((2, 3), keepdim=True)))
                    .detach()[0]
                    .sum(0)
                    .abs()
                    .double()
                    .cpu()
                    for (name, level), gradient in zip(trace.levels.items(), gradients, strict=True)
                }
            )
    return found
