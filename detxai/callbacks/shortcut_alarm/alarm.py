"""The shortcut alarm: a class that is decided outside its boxes, and in image after image at the same place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.callbacks.panel import PanelImage, boxes_to_explain
from detxai.callbacks.shortcut_alarm.windows import Windows, score_drops
from detxai.engine.masking.canvas import Filling


@dataclass(frozen=True)
class Alarm:
    """A class depends on a fixed place outside its boxes.

    Attributes:
        label: the class.
        name: its name.
        place: (x1, y1, x2, y2) as shares of the image's width and height.
        share: of the images, in which hiding the place takes ``drop`` or more of the score.
        drop: the median drop there, as a share of the score.
        n_images: in how many images the place is clear of the boxes.
    """

    label: int
    name: str
    place: tuple[float, float, float, float]
    share: float
    drop: float
    n_images: int

    def __str__(self) -> str:
        x1, y1, x2, y2 = (round(100 * side) for side in self.place)
        return (
            f"shortcut alarm: {self.name!r} leans on a fixed place outside its boxes ({x1}-{x2} % from the left, "
            f"{y1}-{y2} % from the top): hiding it takes {self.drop:.0%} of the score (median of {self.n_images} "
            f"images; it matters in {self.share:.0%} of them)"
        )


@dataclass(frozen=True)
class ShortcutAlarm:
    """When a class's evidence moves out of its boxes to a fixed place.

    Each window of a coarse grid is hidden in turn, in every image of a class. A window that does not touch the box
    and yet takes much of its score is evidence outside the box. One such image proves nothing (a sun above a house
    is context); the alarm is that *the same* window matters in nearly all of them.

    A class activation map does not do for this. On the bundled YOLO, Ablation-CAM puts less than chance on the
    watermark that decides (0.6 x a flat map's share) and EigenCAM asks about no class, but hiding the watermark takes
    nearly all of the score. On both bundled detectors it matters in every image of its class, the best place of any
    other class in at most 40 % of them.

    Args:
        windows: which places.
        fill: what stands where a window is hidden: a blur makes no new edges.
        least_drop: of the score, from which a window matters in an image.
        least_share: of the images in which the same window must matter.
        least_images: with fewer, some place of a varied background is shared by chance.
        least_score: a box that scores less has no evidence to look for yet.
    """

    windows: Windows = field(default_factory=Windows)
    fill: Filling = "blur"
    least_drop: float = 0.3
    least_share: float = 0.7
    least_images: int = 6
    least_score: float = 0.25

    def __post_init__(self) -> None:
        for name in ("least_drop", "least_share", "least_score"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        if self.least_images < 2:
            raise ValueError(f"least_images must be at least 2, got {self.least_images}: one image has only one place")

    def window_effects(
        self, detector: Detector, item: PanelImage, *, row: int | None = None, max_boxes: int = 16
    ) -> dict[int, Tensor]:
        """For each class in the image that scores enough, what each window takes of its score: label -> (W,).

        The mean over the class's boxes, NaN where a window touches all of them. With a ``row``, only its windows are
        hidden, and all others have NaN.
        """
        boxes = boxes_to_explain(detector, item, most=max_boxes, score_threshold=self.least_score)
        boxes = boxes[(boxes.scores >= self.least_score).nonzero().flatten()]
        effects = score_drops(detector, item.pixels, boxes, self.windows, fill=self.fill, row=row)
        return {label: effects[boxes.labels == label].nanmean(0) for label in boxes.labels.unique().tolist()}

    def judge(self, effects: Iterable[Mapping[int, Tensor]], names: Mapping[int, str]) -> list[Alarm]:
        """The classes that lean on a fixed place, from the window effects of each image; the worst place of each.

        >>> elsewhere, corner = torch.tensor([0.0, 0.9, 0.0, 0.0]), torch.tensor([0.8, 0.0, torch.nan, 0.0])
        >>> alarm = ShortcutAlarm(Windows(cells=2, span=1), least_images=3)
        >>> [alarm.judge([{7: corner}] * n + [{7: elsewhere}], {}) != [] for n in (1, 2, 4)]
        [False, False, True]
        """
        by_label: dict[int, list[Tensor]] = {}
        for of_image in effects:
            for label, drops in of_image.items():
                by_label.setdefault(label, []).append(drops)
        found = (self._judge_class(label, torch.stack(rows), names) for label, rows in sorted(by_label.items()))
        return [alarm for alarm in found if alarm is not None]

    def _judge_class(self, label: int, effects: Tensor, names: Mapping[int, str]) -> Alarm | None:
        """One class, from (n_images, W)."""
        known = ~effects.isnan()
        n_images = known.sum(0)
        share = ((effects >= self.least_drop) & known).sum(0) / n_images.clamp(min=1)
        drop = effects.nanmedian(0).values.nan_to_num(0)
        # the window must be clear of the boxes in half of the images: else a few of them decide for the class
        told = (n_images >= self.least_images) & (2 * n_images >= len(effects))
        suspects = told & (share >= self.least_share)
        if not bool(suspects.any()):
            return None
        worst = int(torch.where(suspects, share + drop, -torch.inf).argmax())
        x1, y1, x2, y2 = self.windows.shares[worst].tolist()
        name = names.get(label, str(label))
        return Alarm(label, name, (x1, y1, x2, y2), float(share[worst]), float(drop[worst]), int(n_images[worst]))
