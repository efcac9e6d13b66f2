"""What the colours of a map stand for, and how they are laid over a photo."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import Colormap

from detxai.explanation import Explanation
from detxai.methods import METHODS

Mode = Literal["evidence", "signed"]
# inferno is perceptually uniform and survives grey print; coolwarm is even on both sides of its neutral zero
COLOURS: dict[Mode, str] = {"evidence": "inferno", "signed": "coolwarm"}
STRONGEST = 0.05  # of the evidence: the strongest pixels that hold it share a colour in maps of single pixels
NO_BOX_LABEL = "strength, as a share of its peak"  # evidence is evidence for a box
BAR_LABELS: dict[Mode, str] = {
    "evidence": "evidence, as a share of its peak",
    "signed": "against  -  evidence  -  for, as a share of its peak",
}


def coloured(heat: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Evidence (H, W) in [0, 1] as RGB (H, W, 3) in [0, 255]."""
    return np.asarray(colormaps[COLOURS["evidence"]](heat)[..., :3], dtype=np.float32) * 255


def blend(ground: npt.NDArray[Any], colours: npt.NDArray[np.float32], share: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Colours (H, W, 3) over a ground (H, W, 1 or 3), both in [0, 255]; ``share`` (H, W) of them, in [0, 1]."""
    share = share[..., None]
    return ((1 - share) * ground + share * colours + 0.5).astype(np.uint8)


def default_mode(explanation: Explanation) -> Mode:
    """How the map is drawn where nobody says: as its method's class does."""
    return "signed" if _of_method(explanation, "is_signed") else "evidence"


def signed(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A map scaled to [-1, 1], zero staying zero."""
    peak = float(np.abs(values).max())
    return values / peak if peak > 0 else values


def end_of_scale(explanation: Explanation, shown: npt.NDArray[np.float32]) -> float:
    """Where the colours end: at 1, the peak; in a map of single pixels, below the strongest few.

    Gradients of single pixels have peaks beside which all others are pale (Captum's pictures leave out 2 % of the
    pixels). Here it is a share of the evidence, so that a small object keeps its shades.
    """
    if not _of_method(explanation, "of_single_pixels") or "low_pass" in explanation.settings:
        return 1.0
    strongest_first = -np.sort(-np.abs(shown), axis=None).astype(np.float64)
    held = strongest_first.cumsum()
    next_one = min(int(np.searchsorted(held, STRONGEST * held[-1])) + 1, len(held) - 1)
    return float(strongest_first[next_one]) or 1.0


def bar_label(explanation: Explanation, mode: Mode) -> str:
    """What the colours stand for: evidence, where the method does not say that it shows something else."""
    if explanation.detection is None:
        return NO_BOX_LABEL
    shown = _of_method(explanation, "shows")
    return BAR_LABELS[mode] if shown is None else f"{shown}, as a share of its peak"


def colour_map(mode: Mode, name: str | None = None) -> Colormap:
    """The colour map of a mode, or the one with this name.

    Raises:
        ValueError: an unknown mode or colour map.
    """
    if mode not in COLOURS:
        raise ValueError(f"mode must be one of {list(COLOURS)}, got {mode!r}")
    name = name or COLOURS[mode]
    if name not in colormaps:
        raise ValueError(f"colours must be a matplotlib colour map, got {name!r}")
    return colormaps[name]


def _of_method(explanation: Explanation, name: str) -> Any:
    """What a method's class says of its maps; None where it says nothing, or the method is somebody's own."""
    return getattr(METHODS.get(explanation.method), name, None)
