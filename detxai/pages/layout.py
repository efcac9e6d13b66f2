"""Where the panels of a figure lie, in output pixels, so that a picture comes out as crisp as it went in."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 100
FLATTEST, TALLEST = 1 / 12, 6  # height : width of what is drawn; a photo beyond that is stretched to it
# output pixels
MARGIN, CAPTION_SPACE, BAR_SPACE, BAR_THICKNESS, LEAST_BAR, LEAST_WIDTH = 14, 36, 96, 14, 320, 420


@dataclass(frozen=True)
class Layout:
    """Panels of one size in rows and columns, with room for captions and a colour bar.

    Attributes:
        panel: (height, width) of one photo.
        bar_below: whether the colour bar lies below the photo (flat ones) instead of beside it.
    """

    panel: tuple[int, int]
    bar_below: bool = False

    @classmethod
    def for_photo(cls, shape: tuple[int, ...], width: int | None, least: int, most: int) -> Layout:
        """Panels for photos of this shape: ``width`` wide, or their own width between ``least`` and ``most``.

        Raises:
            ValueError: a width below 16.
        """
        if width is not None and width < 16:
            raise ValueError(f"width must be at least 16 pixels, got {width}")
        aspect = min(max(shape[0] / shape[1], FLATTEST), TALLEST)  # beyond these a line would be all there is to see
        across = width or min(max(shape[1], least), most, round(most / aspect))
        height = max(round(across * aspect), 1)
        return cls((height, across), bar_below=height < 240)

    def figure(self, rows: int, columns: int, *, bar: bool) -> tuple[Figure, list[Axes], Axes | None]:
        """An empty figure, its panels row by row, and the axes of its colour bar."""
        height, width = self.panel
        beside, under = (BAR_SPACE if bar and not self.bar_below else 0), (BAR_SPACE if bar and self.bar_below else 0)
        total_width = max(columns * (width + MARGIN) + MARGIN + beside, LEAST_WIDTH if bar else 0)
        total_height = rows * (height + CAPTION_SPACE) + MARGIN + under
        figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI)

        def place(left: float, top: float, across: float, down: float) -> Axes:
            bottom = total_height - top - down
            return figure.add_axes(
                (left / total_width, bottom / total_height, across / total_width, down / total_height)
            )

        panels = [
            place(MARGIN + column * (width + MARGIN), CAPTION_SPACE + row * (height + CAPTION_SPACE), width, height)
            for row in range(rows)
            for column in range(columns)
        ]
        for axes in panels:
            axes.set_axis_off()
        if not bar:
            return figure, panels, None
        if self.bar_below:
            return figure, panels, place(MARGIN, CAPTION_SPACE + height + MARGIN, max(width, LEAST_BAR), BAR_THICKNESS)
        return figure, panels, place(2 * MARGIN + width, CAPTION_SPACE, BAR_THICKNESS, height)
