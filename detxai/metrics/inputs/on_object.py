"""What lies on the object: asked of its box and of its mask, each beside chance."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from detxai.metrics.inputs.case import Case, Reference
from detxai.metrics.inputs.maps import box_masks, where_known


def on_box_and_mask(
    name: str, share: Callable[[Tensor, Tensor], Tensor], case: Case, reference: Reference
) -> dict[str, Tensor]:
    """A share of the map on the box and on the mask, and what a flat map would have: the share of the image's pixels.

    Args:
        name: of the quantities: ``name_box``, ``name_box_chance``, ``name_mask``, ``name_mask_chance``.
        share: from maps (T, H, W) and masks (T, H, W) bool to (T,).
        case: the maps.
        reference: whose box.
    """
    boxes, _, known = case.reference(reference)
    inside = box_masks(boxes, case.size)
    masks, with_mask = case.object_masks()
    return {
        f"{name}_box": where_known(share(case.maps, inside), known),
        f"{name}_box_chance": where_known(inside.float().mean((1, 2)), known),
        f"{name}_mask": where_known(share(case.maps, masks), with_mask),
        f"{name}_mask_chance": where_known(masks.float().mean((1, 2)), with_mask),
    }
