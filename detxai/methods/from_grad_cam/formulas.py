"""grad-cam's classes, asked for their formulas alone, and what becomes of their maps."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detxai.geometry import Geometry

ROUNDING = 1e-6  # of the strongest level: less is what is left where large terms cancel


def grad_cam_class(name: str, module: str = "pytorch_grad_cam") -> Any:
    """A class of grad-cam's; imported only here, for that takes seconds.

    Raises:
        ImportError: grad-cam is missing, or too old to have it.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(f"{name} is grad-cam's: python -m pip install --upgrade grad-cam ({error})") from error


def formula_of(name: str, device: torch.device, **settings: Any) -> Any:
    """An instance of grad-cam's class that has no model and no layers: it hooks nothing and changes nothing.

    grad-cam puts the model it gets into eval mode, zeroes its gradients and hooks its layers. Its formulas ask for
    none of that: ``get_cam_image`` and ``get_cam_weights`` read features and gradients.
    """
    stand_in = nn.Module()
    stand_in.register_parameter("device", nn.Parameter(torch.empty(0, device=device), requires_grad=False))
    return grad_cam_class(name)(stand_in, [], **settings)


def as_array(tensor: Tensor) -> npt.NDArray[np.floating[Any]]:
    """As grad-cam's formulas take it: on the CPU, in single or double precision."""
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    return np.asarray(wide.detach().cpu().numpy())


def join_levels(maps: Sequence[Tensor], geometry: Geometry) -> Tensor:
    """One map (H, W) in image pixels from one for each level, (h, w): the mean of those that say anything.

    As grad-cam does, each level counts alike: all are brought to one scale first, for a cell's share of a score says
    how many pixels it stands for as much as how much it matters. But that scale is the largest absolute value of the
    strongest level, not 1; the sign stays; and a level that the box does not depend on, whose map is all zeros or,
    beside the strongest, what rounding leaves, does not count. So where one level decides, ``values`` are that
    level's, as grad-cam's formula gives them.

    Each level is brought to the image from its own cells, where the detector itself takes them to lie; grad-cam
    enlarges as if a feature lay in the middle of its cell, which is half a cell off in torchvision's detectors.

    >>> whole = Geometry((2, 2), (2, 2), (2, 2))
    >>> join_levels([torch.tensor([[4.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, -1.0], [0.0, 0.0]])], whole)
    tensor([[ 2., -2.],
            [ 0.,  0.]])
    """
    on_image = torch.stack([geometry.map_to_image(map_.float()) for map_ in maps])
    peaks = on_image.abs().amax((1, 2), keepdim=True)
    counts = peaks > ROUNDING * peaks.amax()
    scale = torch.where(counts, peaks.amax() / torch.where(counts, peaks, 1), 0)
    return (on_image * scale).sum(0) / counts.sum().clamp(min=1)
