"""What the views of an image gave for each of its boxes: Shapley draws, soft masks, and the comparison of maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from detxai.engine.masking.scoring import ViewScorer
from detxai.engine.masking.shapley import Densities, ShapleySampler
from detxai.engine.masking.soft.estimating import Estimate
from detxai.targets import Target


@dataclass(eq=False)
class EvidenceViews:
    """The results of all views of one image so far, for T boxes.

    Attributes:
        sampler: draws Shapley densities.
        scorer: of the T targets of the soft masks and of the comparison: the class's score, or its contrast with a
            rival's.
        contrast: (T,) bool, where it is the contrast.
        hidden, whole: (T, F) and (T,), their scores with nothing shown and for the whole image.
        known: the draws.
        masks: the soft masks' slopes and their errors, (T, h, w); None where there were none.
        cell: height and width of a cell of the masks in pixels.
        gradients: the same masks' slopes by gradients, (T, h, w); None where there were none.
        agreement: (T,), how well other soft masks would correlate with these before there were fine masks.
        tried: (M, T), the comparison's result for each map; None where there was none.
        n_shared: views that are not of draws.
        partial: whether Ctrl-C ended them early.
    """

    sampler: ShapleySampler
    scorer: ViewScorer
    contrast: Tensor
    hidden: Tensor
    whole: Tensor
    known: Densities
    n_shared: int
    masks: Estimate | None = None
    cell: tuple[int, int] = (1, 1)
    gradients: Estimate | None = None
    agreement: Tensor | None = None
    tried: Tensor | None = None
    partial: bool = False

    @classmethod
    def from_ends(
        cls, sampler: ShapleySampler, rivals: Sequence[Target], hidden: Tensor, whole: Tensor
    ) -> EvidenceViews:
        """Before any views but the ends.

        A rival class is asked about where it scores more than half as much as the class itself in the whole image.
        """
        targets, n_boxes = sampler.scorer.targets, len(sampler.boxes)
        place = torch.arange(n_boxes, device=whole.device)
        contrast = whole[n_boxes:] > whole[:n_boxes] / 2 if rivals else torch.zeros_like(place, dtype=torch.bool)
        place = torch.where(contrast, place + n_boxes, place)
        every = [*targets, *rivals]
        scorer = replace(sampler.scorer, targets=[every[i] for i in place.tolist()])
        known = Densities.empty(sampler.canvas.size, hidden[:n_boxes], whole[:n_boxes])
        return cls(sampler, scorer, contrast, hidden[place], whole[place], known, hidden.shape[1] + 1)

    def with_masks(self, masks: Estimate, cell: tuple[int, int], n_masks: int) -> EvidenceViews:
        """The same with soft masks, which took so many views."""
        agreement = masks.expected_correlation
        return replace(self, masks=masks, cell=cell, agreement=agreement, n_shared=self.n_shared + n_masks)

    @property
    def n_passes(self) -> int:
        return self.n_shared + int(self.known.n_views.sum())

    def records(self, candidates: Sequence[str]) -> list[dict[str, Any]]:
        """One record for each box, as JSON can hold it; ``candidates`` are the names of the maps compared."""
        records = [
            record | {"contrast": is_contrast, "gradients": self.gradients is not None}
            for record, is_contrast in zip(self.known.records(), self.contrast.tolist(), strict=True)
        ]
        if self.agreement is not None:
            for record, agreement in zip(records, self.agreement.tolist(), strict=True):
                record["expected_correlation_of_masks"] = agreement
        if self.tried is not None:
            for record, scores in zip(records, self.tried.T.tolist(), strict=True):
                record["tried"] = dict(zip(candidates, scores))
        return records
