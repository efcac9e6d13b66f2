"""The parts of one image that a sliced detector runs on: what adapters tell the engine about sliced inference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detxai.detections import Candidates
from detxai.images import Image

if TYPE_CHECKING:
    from detxai.adapters.detector import Detector


@dataclass(frozen=True, eq=False)
class ImageParts:
    """The slices of an image, and the image as a whole where the detector also runs on that.

    Each part is an image of its own to the detector inside. The candidates of the image are those of all parts, moved
    to where the parts lie. A box is clipped at the edges that its part shares with other parts, so that no part
    reports pixels that it did not contain; at the edges of the image it is not clipped.

    Attributes:
        inner: the detector that runs on each part.
        windows: (S, 4) int64 xyxy on the CPU, the pixels of the image that each part contains.
        reach: (S, 4) float32 xyxy on the CPU, what a part's boxes are clipped to: its window, infinite at the edges of
            the image.
        eight_bit: whether the image has 8 bits, whole levels from 0 to 255; then so has every changed version of it.
    """

    inner: Detector
    windows: Tensor
    reach: Tensor
    eight_bit: bool

    def __len__(self) -> int:
        return len(self.windows)

    def pixels(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] as the detector inside gets them: uint8, or float32 in [0, 1]."""
        if self.eight_bit:
            return (images * 255).add_(0.5).clamp_(0, 255).to(torch.uint8)
        return images.clamp(0, 1)

    def crop(self, pixels: Tensor, part: int) -> Tensor:
        """The pixels (..., h, w) of a part, from those of the image (..., H, W)."""
        left, top, right, bottom = self.windows[part].tolist()
        return pixels[..., top:bottom, left:right]

    def of_one_size(self) -> list[list[int]]:
        """The indices of the parts, grouped by size, in order."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for part, (left, top, right, bottom) in enumerate(self.windows.tolist()):
            groups.setdefault((bottom - top, right - left), []).append(part)
        return list(groups.values())

    def images(self, crops: Tensor) -> list[Image]:
        """Crops (P, 3, h, w) as images that any detector takes."""
        crops = crops.cpu()
        if self.eight_bit:
            return list(crops.permute(0, 2, 3, 1).contiguous().numpy())
        return list(crops)

    def candidates(self, crops: Tensor, parts: Tensor) -> Candidates:
        """The candidates in P crops of one size, (P, N, ...), in pixels of the image; without gradients.

        Args:
            crops: (P, 3, h, w) of ``pixels``.
            parts: (P,) int64 on the CPU, which part each shows.
        """
        with self.inner.borrowed_afresh(), torch.no_grad():  # gradients end where an image is cut and rounded
            found = self.inner.candidates(self.images(crops))
        return self._placed(found, self.windows[parts], self.reach[parts])

    def placed(self, boxes: Tensor, part: int) -> Tensor:
        """Boxes (N, 4) found in a part, in pixels of the image."""
        return _clipped(boxes.float() + _corner(self.windows[part]).to(boxes.device), self.reach[part])

    def _placed(self, found: Candidates, windows: Tensor, reach: Tensor) -> Candidates:
        boxes = found.boxes if found.boxes.dtype == torch.float64 else found.boxes.float()  # half: up to 2,048 only
        corner = _corner(windows).to(boxes)[:, None]
        moved = None if found.proposals is None else found.proposals.to(boxes) + corner
        boxes = _clipped(boxes + corner[:, :, None], reach[:, None, None])
        return replace(found, boxes=boxes, proposals=moved)

    def example(self, part: int) -> Tensor:
        """(1, 3, h, w): a blank part as the detector inside prepares it, to know how much memory one takes."""
        left, top, right, bottom = self.windows[part].tolist()
        kind = torch.uint8 if self.eight_bit else torch.float32
        blank = torch.zeros(1, 3, bottom - top, right - left, dtype=kind, device="cpu")
        return self.inner.prepare(self.images(blank)).tensor

    @classmethod
    def of_image(
        cls, inner: Detector, windows: Tensor, image_size: tuple[int, int], *, whole_image: bool, eight_bit: bool
    ) -> ImageParts:
        """The parts of an image of (height, width): slices, and the whole image last where it is one of them."""
        whole = torch.tensor([[0, 0, image_size[1], image_size[0]]], device="cpu")
        if whole_image and len(windows) > 1:
            windows = torch.cat([windows, whole])
        endless = torch.tensor([-torch.inf, -torch.inf, torch.inf, torch.inf], dtype=torch.float32, device="cpu")
        reach = torch.where(windows == whole, endless, windows.float())
        return cls(inner, windows, reach, eight_bit)


def overlaps(boxes: Tensor, reach: Tensor) -> Tensor:
    """(T, S) bool, which of T boxes (T, 4) share any area with each part's reach (S, 4)."""
    low, high = _shared(boxes, reach)
    return (high > low).all(-1)


def intersections(boxes: Tensor, reach: Tensor) -> Tensor:
    """(T, S) that area."""
    low, high = _shared(boxes, reach)
    return (high - low).clamp(min=0).prod(-1)


def _shared(boxes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """(T, S, 2) each: upper left and lower right corners of the intersections; in the wrong order where empty."""
    low = torch.maximum(boxes[:, None, :2], reach[None, :, :2])
    return low, torch.minimum(boxes[:, None, 2:], reach[None, :, 2:])


def _corner(windows: Tensor) -> Tensor:
    """The upper left corners of windows (..., 4), twice (x, y, x, y): the offset to add to boxes."""
    return windows[..., [0, 1, 0, 1]]


def _clipped(boxes: Tensor, reach: Tensor) -> Tensor:
    reach = reach.to(boxes)
    low, high = reach[..., [0, 1, 0, 1]], reach[..., [2, 3, 2, 3]]
    return torch.minimum(torch.maximum(boxes, low), high)
