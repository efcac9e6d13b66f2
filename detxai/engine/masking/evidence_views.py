"""What was seen of an image for each of its boxes: draws, soft masks, and maps on trial."""

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
    """What the views of T boxes came to.

    Attributes:
        sampler: what draws.
        scorer: of the T questions of the masks and of the trial: for the class, or for its contrast with another.
        contrast: (T,) bool, which of the two.
        hidden, whole: (T, F) and (T,), their answers with nothing shown and for the whole image.
        known: the draws.
        masks: the soft masks' slopes and their errors, (T, h, w); None where there were none.
        agreement: (T,), how well other soft masks would correlate with these before they were sharpened.
        tried: (M, T), what each map did on trial; None where none was tried.
        n_shared: views that are not of draws.
        partial: whether Ctrl-C cut them short.
    """

    sampler: ShapleySampler
    scorer: ViewScorer
    contrast: Tensor
    hidden: Tensor
    whole: Tensor
    known: Densities
    n_shared: int
    masks: Estimate | None = None
    agreement: Tensor | None = None
    tried: Tensor | None = None
    partial: bool = False

    @classmethod
    def asking(cls, sampler: ShapleySampler, rivals: Sequence[Target], hidden: Tensor, whole: Tensor) -> EvidenceViews:
        """No views but the ends yet: a rival is asked where the whole image scores it by more than half as much."""
        targets, n_boxes = sampler.scorer.targets, len(sampler.boxes)
        place = torch.arange(n_boxes, device=whole.device)
        contrast = whole[n_boxes:] > whole[:n_boxes] / 2 if rivals else torch.zeros_like(place, dtype=torch.bool)
        place = torch.where(contrast, place + n_boxes, place)
        every = [*targets, *rivals]
        scorer = replace(sampler.scorer, targets=[every[i] for i in place.tolist()])
        known = Densities.empty(sampler.canvas.size, hidden[:n_boxes], whole[:n_boxes])
        return cls(sampler, scorer, contrast, hidden[place], whole[place], known, hidden.shape[1] + 1)

    @property
    def n_passes(self) -> int:
        return self.n_shared + int(self.known.n_views.sum())

    def records(self, candidates: Sequence[str]) -> list[dict[str, Any]]:
        """What became of each box, as JSON can hold it; the maps that may have been tried are called ``candidates``."""
        told = [one | {"contrast": yes} for one, yes in zip(self.known.records(), self.contrast.tolist(), strict=True)]
        if self.agreement is not None:
            for one, agreement in zip(told, self.agreement.tolist(), strict=True):
                one["expected_correlation_of_masks"] = agreement
        if self.tried is not None:
            for one, scores in zip(told, self.tried.T.tolist(), strict=True):
                one["tried"] = dict(zip(candidates, scores))
        return told
