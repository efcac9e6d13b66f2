"""A raw map as a figure: its values as they are, with a scale in their own units."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from detxai.pages.colours import COLOURS

INCHES, LONGEST = 7.0, 480  # the figure's width, and pixels of a map that it shows


def map_figure(values: npt.NDArray[np.float32], label: str) -> Figure:
    """The map (H, W) in false colours, zero in the middle of a diverging scale where some of it is negative.

    Args:
        values: of the map, finite.
        label: of the scale.
    """
    height, width = values.shape
    step = max(1, -(-max(height, width) // LONGEST))
    is_signed = bool((values < 0).any())
    end = float(np.abs(values).max()) or 1.0
    figure = Figure(figsize=(INCHES, INCHES * 0.82 * height / width + 0.3), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(
        values[::step, ::step], cmap=COLOURS["signed" if is_signed else "evidence"],
        vmin=-end if is_signed else 0, vmax=end, extent=(0, width, height, 0), interpolation="nearest",
    )  # fmt: skip
    axes.set_xlabel("pixels")
    figure.colorbar(shown, ax=axes, label=label, shrink=0.9)
    return figure
