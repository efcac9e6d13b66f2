"""Evidence AUC: does the map rank the pixels that are known to have decided above the others?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detxai.metrics.inputs.case import Case, Quantity
from detxai.metrics.inputs.roc_area import roc_area


@dataclass(frozen=True)
class EvidenceAUC:
    """The area under the ROC curve when the map's values are used to tell evidence from other pixels.

    Only the order of the pixels counts. The raw map is taken, so evidence against the box comes last. NaN if there is
    no evidence, or if it covers the whole image.

    Source: Fawcett, 2006, An introduction to ROC analysis (Pattern Recognition Letters): the area is the
    Mann-Whitney statistic; ties count half.
    """

    name: ClassVar[str] = "evidence_auc"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "evidence_auc": Quantity("area under the ROC curve against the evidence", 0, 1, "higher", 0.5),
    }

    def __call__(self, case: Case) -> dict[str, Tensor]:
        if case.evidence is None:
            return {"evidence_auc": torch.full((len(case),), torch.nan, device=case.maps.device)}
        return {"evidence_auc": roc_area(case.maps, case.evidence)}
