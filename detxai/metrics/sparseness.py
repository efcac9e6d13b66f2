"""Sparseness: does the map single out few pixels?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.engine.rank_correlation import in_parts
from detxai.metrics.inputs.case import Case, Quantity


@dataclass(frozen=True)
class Sparseness:
    """Gini index of the map's positive part: 0 if all pixels are alike, near 1 if one pixel has everything.

    It does not say whether these are the right pixels.

    Source: Chalasani et al., 2020, Concise explanations of neural networks using adversarial training (ICML),
    as in Quantus. Differs in looking at the positive part, not at absolute values.
    """

    name: ClassVar[str] = "sparseness"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "sparseness": Quantity("Gini index of the map", 0, 1, "higher", 1 / 3),
    }

    def __call__(self, case: Case) -> dict[str, Tensor]:
        return {"sparseness": gini(case.maps)}


def gini(maps: Tensor) -> Tensor:
    """Gini's index of each map's positive part: ``sum_i (2 i - n - 1) x_i / (n sum x)``, x ascending, i from 1.

    Args:
        maps: (T, H, W) raw.

    Returns:
        (T,) in [0, 1); 0 for a map without a positive value.

    >>> gini(torch.tensor([[[0.0, 0.0, 0.0, 5.0]], [[2.0, 2.0, 2.0, 2.0]]]))
    tensor([0.7500, 0.0000])
    """
    return in_parts(_gini, maps)


def _gini(maps: Tensor) -> Tensor:
    # MPS has no float64; elsewhere float32 sums over a megapixel would cost the third digit
    wide = torch.float32 if maps.device.type == "mps" else torch.float64
    ordered = maps.flatten(1).clamp(min=0).to(wide).sort(1).values
    n = ordered.shape[1]
    weights = 2 * torch.arange(1, n + 1, device=maps.device, dtype=wide) - n - 1
    total = ordered.sum(1)
    return ((ordered @ weights) / (n * torch.where(total > 0, total, 1))).clamp(min=0).float()
