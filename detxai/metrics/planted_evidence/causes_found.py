"""Causes found: where several things would each have been enough, does the map show all of them?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.metrics.inputs.case import Case, Quantity
from detxai.metrics.inputs.roc_area import roc_area


@dataclass(frozen=True)
class CausesFound:
    """How many of a detection's causes the map ranks above the pixels that are no cause.

    Each cause is compared, by the area under the ROC curve, with all pixels that are no cause of this detection. It is
    found if this area is ``threshold`` or more. Detections with fewer than two causes give NaN.

    Args:
        threshold: in (0.5, 1]; 0.9 means that nine of ten pixels that are no cause lie below the cause's.

    Raises:
        ValueError: ``threshold`` is out of range.

    Source: our own. If either of two causes is enough, a map of the smallest sufficient part shows only one of them.
    """

    name: ClassVar[str] = "causes_found"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "causes_all": Quantity("1 if every cause is found, else 0", 0, 1, "higher", 0.0),
        "causes_share": Quantity("share of the causes that are found", 0, 1, "higher", 0.0),
        "causes_worst_auc": Quantity("area under the ROC curve of the cause that is found worst", 0, 1, "higher"),
    }

    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0.5 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0.5, 1], got {self.threshold}")

    def __call__(self, case: Case) -> dict[str, Tensor]:
        found = torch.full((3, len(case)), torch.nan, device=case.maps.device)
        for i, causes in enumerate(case.causes or ()):  # each detection has its own number of causes
            areas = cause_areas(case.maps[i], causes) if len(causes) > 1 else causes.new_zeros(0, dtype=torch.float32)
            if len(areas) > 1:
                hits = (areas >= self.threshold).float()
                found[:, i] = torch.stack([hits.amin(), hits.mean(), areas.amin()])
        return dict(zip(self.quantities, found))


def cause_areas(map_: Tensor, causes: Tensor) -> Tensor:
    """Area under the ROC curve of each cause against the pixels that are none.

    Args:
        map_: (H, W) raw.
        causes: (n, H, W) bool; causes without pixels are left out.

    Returns:
        (n,) in [0, 1].

    >>> causes = torch.tensor([[[True, False, False, False]], [[False, False, False, True]]])
    >>> cause_areas(torch.tensor([[3.0, 1.0, 2.0, 1.0]]), causes)
    tensor([1.0000, 0.2500])
    """
    causes = causes[causes.any(2).any(1)]
    nowhere = ~causes.any(0)
    return roc_area(map_.expand_as(causes), causes, nowhere.expand_as(causes))
