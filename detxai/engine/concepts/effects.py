"""What a box's score loses without each concept, and where each concept is in the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detxai.adapters.detector import Features
from detxai.adapters.network import NetworkDetector
from detxai.engine.ablation.full_tail import FullTail
from detxai.engine.batching import batch_size_for, in_batches
from detxai.engine.concepts.concept_file import Concepts
from detxai.engine.concepts.mixture import Mixture
from detxai.targets import Target, score_targets


@dataclass(frozen=True, eq=False)
class ConceptEffects:
    """The effects of all concepts on the boxes of one image.

    Attributes:
        clean: (T,) the targets' scores.
        drops: (T, J) how much of each goes away without each concept.
        passes: through the part of the network behind the layers.
    """

    clean: Tensor
    drops: Tensor
    passes: int


def memberships_of(concepts: Concepts, features: Features) -> dict[str, Tensor]:
    """Level -> (K, h, w): to which concepts of its mixture its cells belong.

    Raises:
        LookupError: the features have not the levels of these concepts.
    """
    missing = [level for mixture in concepts.mixtures for level in mixture.levels if level not in features.levels]
    if missing:
        raise LookupError(
            f"features must have the levels of the concepts, {missing} are not in {list(features.levels)}"
        )
    return {
        level: mixture.memberships(features.levels[level]) for mixture in concepts.mixtures for level in mixture.levels
    }


def concept_effects(
    detector: NetworkDetector,
    features: Features,
    targets: Sequence[Target],
    concepts: Concepts,
    memberships: Mapping[str, Tensor],
    batch_size: int | None = None,
) -> ConceptEffects:
    """The exact drop of each target's score when each concept is removed from the features.

    Every version of the features is run through the whole network behind them; the model is borrowed by the caller,
    without gradients.

    Args:
        detector: borrowed.
        features: of one image, of the concepts' layers.
        targets: T questions.
        concepts: J of them.
        memberships: from ``memberships_of``.
        batch_size: concepts removed at once; None: what fits the device.
    """
    tail = FullTail(detector, features, targets)
    drops: list[Tensor] = []
    for mixture in concepts.mixtures:
        size = batch_size or batch_size_for(tail.clean.device, tail.bytes_per_item(mixture.levels[0]), tail.cpu_batch)
        size = 1 if tail.mixes_images else size

        def run(part: Tensor, mixture: Mixture = mixture) -> Tensor:
            changed = {
                level: mixture.without(features.levels[level], memberships[level], part.tolist(), concepts.removal)
                for level in mixture.levels
            }
            return score_targets(targets, tail.resumed(features.with_levels(changed)))

        drops += [tail.clean[:, None] - scores for _, scores in in_batches(torch.arange(len(mixture)), size, run)]
    return ConceptEffects(tail.clean, torch.cat(drops, 1), 1 + len(concepts))


def concept_maps(
    concepts: Concepts,
    features: Features,
    memberships: Mapping[str, Tensor],
    over_levels: Literal["mean", "max"] = "mean",
) -> Tensor:
    """(J, H, W) in [0, 1]: how far each pixel belongs to each concept, at the mean or the maximum of its levels."""
    geometry = features.inputs.geometries[0]
    parts = []
    for mixture in concepts.mixtures:
        levels = torch.stack([geometry.map_to_image(memberships[level]) for level in mixture.levels])
        parts.append(levels.mean(0) if over_levels == "mean" else levels.amax(0))
    return torch.cat(parts).float()
