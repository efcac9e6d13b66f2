"""Overlays: what is drawn lies where it belongs, for every shape of photo."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from detxai.detections import Detections
from detxai.explanation import Cost, Explanation
from detxai.pages.overlays import SETS, overlay, sheet

GREY = 100


def explanation(height: int, width: int, values: np.ndarray | None = None, name: str = "cat") -> Explanation:
    values = np.zeros((height, width), np.float32) if values is None else values
    photo = np.full((height, width, 3), GREY, np.uint8)
    box = Detections([[0, 0, width / 2, height / 2]], [0.9], [1], {1: name})
    return Explanation(values, photo, "eigen_cam", {}, Cost(0, 1), detection=box)


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def photo_area(figure: Figure) -> tuple[slice, slice]:
    """Rows and columns of the picture that hold the photo."""
    place = figure.axes[0].get_window_extent()
    total = round(figure.bbox.height)
    return slice(total - round(place.y1), total - round(place.y0)), slice(round(place.x0), round(place.x1))


SHAPES = {
    "landscape": (480, 720), "portrait": (1080, 600), "tiny": (24, 32), "row": (1, 500),
    "column": (400, 1), "one pixel": (1, 1), "wide": (100, 2000), "huge": (2400, 3000),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["evidence", "signed"])
def test_every_shape_gives_a_picture_of_sensible_size(shape: str, mode: Literal["evidence", "signed"]) -> None:
    drawn = pixels(overlay(explanation(*SHAPES[shape]), mode=mode))
    assert 180 <= drawn.shape[0] <= 1800
    assert 400 <= drawn.shape[1] <= 1800


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_drawn_is_cut_off(shape: str) -> None:
    figure = overlay(explanation(*SHAPES[shape]))
    pixels(figure)
    tight = figure.get_tightbbox()
    assert tight.x0 >= -0.2
    assert tight.y0 >= -0.2
    assert tight.x1 * figure.dpi <= figure.bbox.width + 20
    assert tight.y1 * figure.dpi <= figure.bbox.height + 2


def test_one_pixel_of_evidence_is_drawn_at_that_pixel() -> None:
    values = np.zeros((30, 40), np.float32)
    values[20, 33] = 1
    figure = overlay(explanation(30, 40, values), width=400)
    rows, columns = photo_area(figure)
    drawn = pixels(figure)[rows, columns].astype(int)
    changed = np.abs(drawn - GREY).sum(-1) > 100
    changed[:160, :210] = False  # the box
    y, x = np.nonzero(changed)
    assert (y.min() // 10, y.max() // 10, x.min() // 10, x.max() // 10) == (20, 20, 33, 33)


def test_no_evidence_leaves_the_photo_as_it_is() -> None:
    figure = overlay(explanation(30, 40), width=400)
    rows, columns = photo_area(figure)
    drawn = pixels(figure)[rows, columns]
    assert (drawn[170:, :] == GREY).all()


def test_what_speaks_against_the_box_shows_only_when_signed() -> None:
    values = np.zeros((30, 40), np.float32)
    values[25, 35] = -1
    for mode, shows in (("evidence", False), ("signed", True)):
        figure = overlay(explanation(30, 40, values), width=400, mode=mode)  # type: ignore[arg-type]
        rows, columns = photo_area(figure)
        red, _, blue = pixels(figure)[rows, columns][255, 355].astype(int)
        assert (blue - red > 50) == shows


def test_a_method_whose_source_keeps_both_signs_is_drawn_with_them() -> None:
    values = np.zeros((30, 40), np.float32)
    values[25, 35], values[5, 5] = -1, 0.5
    for method, mode in (("hires_cam", "signed"), ("grad_cam", "evidence"), ("somebody's own", "evidence")):
        of_method = replace(explanation(30, 40, values), method=method)
        chosen = pixels(overlay(of_method, width=400, caption=""))
        asked = pixels(overlay(of_method, width=400, caption="", mode=mode))  # type: ignore[arg-type]
        assert np.array_equal(chosen, asked), method
    both = [replace(explanation(30, 40, values), method=method) for method in ("hires_cam", "grad_cam")]
    apart = [pixels(sheet([each], captions=[""])) for each in both]
    together = pixels(sheet(both, captions=["", ""]))
    assert not np.array_equal(apart[0], apart[1])
    width = apart[0].shape[1]
    assert np.array_equal(together[:, :width], apart[0])


@pytest.mark.parametrize(("method", "shows"), [("saliency", True), ("pixel_evidence", True), ("eigen_cam", False)])
def test_one_strong_pixel_does_not_hide_a_map_of_single_pixels(method: str, shows: bool) -> None:
    """A hundredth as strong as the one, hundreds of pixels are seen; in a map of regions they stay pale."""
    values = np.zeros((60, 80), np.float32)
    values[20:40, 20:40] = 0.01
    values[5, 5] = 1
    drawn = replace(explanation(60, 80, values), method=method)
    area = pixels(overlay(drawn, width=640))[photo_area(overlay(drawn, width=640))]
    height, width = area.shape[:2]
    inside = area[round(height * 0.42) : round(height * 0.58), round(width * 0.3) : round(width * 0.45)].astype(int)
    assert (np.abs(inside - GREY).max(-1).mean() > 20) == shows


def test_the_signed_scale_is_centred_at_zero() -> None:
    """The same strength for and against: as far from the neutral colour on either side, however strong the other is."""
    values = np.zeros((30, 40), np.float32)
    values[5, 5], values[25, 35], values[5, 35] = 0.5, -0.5, 1
    figure = overlay(explanation(30, 40, values), width=400, mode="signed", opacity=1.0)
    low, high = figure.axes[1].get_ylim()
    assert (low, high) == (-1, 1)
    rows, columns = photo_area(figure)
    (red, _, cool), (warm, _, blue) = (pixels(figure)[rows, columns][at].astype(int) for at in ((55, 55), (255, 355)))
    assert red - cool > 30
    assert blue - warm > 30
    assert abs((red - cool) - (blue - warm)) < 60


def with_sets(cells: list[list[float]]) -> Explanation:
    sets = {name: {"cells": cells, "area": 0.1, "score": 0.6} for name in SETS}
    return replace(explanation(400, 640), details=sets)


def test_a_set_is_outlined_without_the_edges_inside_it() -> None:
    """Two cells side by side, far from box and legend: a green rectangle, and no line where they meet."""
    one = with_sets([[400, 240, 440, 280], [440, 240, 480, 280]])
    figure = overlay(one)
    rows, columns = photo_area(figure)
    photo = pixels(figure)[rows, columns].astype(int)
    coloured = np.abs(photo - GREY).sum(2) > 60
    for row, column in ((240, 420), (280, 460), (260, 400), (260, 480)):
        assert coloured[row - 2 : row + 3, column - 2 : column + 3].any(), (row, column)
    assert not coloured[245:275, 405:475].any()
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert "enough to keep the box" in {text.get_text() for text in legend.get_texts()}


def test_sets_are_drawn_where_there_are_any_or_refused() -> None:
    plain = explanation(400, 640)
    assert overlay(plain).axes[0].get_legend() is None
    assert overlay(with_sets([[400, 240, 440, 280]]), sets=False).axes[0].get_legend() is None
    with pytest.raises(ValueError, match="sets"):
        overlay(plain, sets=True)


def test_a_class_name_is_text_not_mathematics() -> None:
    figure = overlay(explanation(30, 40, name="$5 note$ \\frac"))
    assert pixels(figure).size
    assert "$5 note$" in figure.axes[0].get_title(loc="left")


def test_a_sheet_has_the_photo_and_a_panel_each() -> None:
    figure = sheet([explanation(60, 80)] * 5, captions=list("abcde"))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:6] == ["photo", *"abcde"]
    assert pixels(figure).shape[1] > pixels(sheet([explanation(60, 80)])).shape[1]
