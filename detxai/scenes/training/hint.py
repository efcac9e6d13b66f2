"""A training aid for causes that lie far from the box; no part of the detectors that come out.

Whether a sun, a moon or the watermark is in the picture must be known at the house or the gem, half an image away. A
detector finds that out by itself only after very long training. So, while training, a 1 x 1 convolution asks every cell
of every pyramid level whether the picture holds an object of a class that is decided from afar.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from detxai.scenes.world import CLASS_NAMES

FAR_LABELS = tuple(CLASS_NAMES.index(name) for name in ("house-sun", "house-moon", "gem-upright"))


class FarHint(nn.Module):
    """The question, one 1 x 1 convolution a level; ``channels`` are those of the levels."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.ask = nn.ModuleList(nn.Conv2d(width, len(FAR_LABELS), 1) for width in channels)

    def forward(self, levels: Sequence[Tensor], present: Tensor) -> Tensor:
        """Cross entropy, averaged over cells, pictures and levels.

        Args:
            levels: for each level (B, C, H, W).
            present: (B, 3) floats, 1 where the picture has an object of that far label.
        """
        total = levels[0].new_zeros(())
        for ask, level in zip(self.ask, levels, strict=True):
            answers = ask(level.float())
            total = total + binary_cross_entropy_with_logits(answers, present[:, :, None, None].expand_as(answers))
        return total / len(self.ask)


def far_labels_present(labels: Tensor, picture: Tensor, n_pictures: int) -> Tensor:
    """(n_pictures, 3) floats from object ``labels`` (N,), numbered from 0, and the ``picture`` (N,) each lies in."""
    present = torch.zeros(n_pictures, len(FAR_LABELS), device=labels.device)
    for column, label in enumerate(FAR_LABELS):
        present[picture[labels == label], column] = 1
    return present
