"""Painted pixels, and what a map predicts of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from black_boxes import WHITE, sees, share

import detxai
from detxai.app.painting import EFFECTS, evidence_share, paint_mask, painted, predicted_score, react

HEIGHT, WIDTH = 48, 64


def stroke(*points: tuple[float, float], radius: float = 5.0) -> dict[str, Any]:
    return {"points": [list(point) for point in points], "radius": radius}


def test_a_stroke_covers_what_lies_within_its_radius() -> None:
    mask = paint_mask([stroke((10, 20), (50, 20))], HEIGHT, WIDTH)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(x - x.clip(10, 50), y - 20)
    assert mask[distance < 4].all()
    assert not mask[distance > 6].any()


def test_strokes_beyond_the_picture_are_cut_off() -> None:
    assert paint_mask([stroke((-500, 20), (9e9, 20))], HEIGHT, WIDTH).any()
    assert not paint_mask([], HEIGHT, WIDTH).any()


@pytest.mark.parametrize(
    "strokes",
    [
        "x", {}, [1], [{"points": 3}], [stroke((float("nan"), 1))], [stroke((1, 1), radius=-1)],
        [stroke((1, 1), radius=1e9)],
        [stroke((1, 1))] * 301, [stroke(*[(1, 1)] * 20_001)], [{"points": [[1, 2, 3]], "radius": 1}],
        [{"points": [["a", "b"]], "radius": 1}],
    ],
    ids=range(11),
)  # fmt: skip
def test_what_are_no_strokes_is_refused(strokes: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        paint_mask(strokes, HEIGHT, WIDTH)


@pytest.mark.parametrize("effect", EFFECTS)
def test_only_painted_pixels_change(effect: Any) -> None:
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = paint_mask([stroke((20, 20), radius=8)], HEIGHT, WIDTH)
    edited = painted(image, mask, effect, (1, 0, 0))
    np.testing.assert_array_equal(edited[~mask], image[~mask])
    assert (edited[mask] != image[mask]).any()
    if effect == "colour":
        assert (edited[mask] == (255, 0, 0)).all()


def test_a_map_of_a_sum_predicts_what_the_detector_then_says() -> None:
    """The score is the share of a patch that is bright: parts do not interact, so Shapley values predict exactly."""
    detector = sees(share(20, 30, 8, 8))
    found = detector.detect(WHITE, 0.0)
    (explanation,) = detxai.RegionShapley(max_passes=600, fill="black", tolerance=0, progress=False)(
        detector, WHITE, found
    )
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[:24] = True  # half of the patch
    reaction = react(detector, explanation, painted(WHITE, mask, "hide"), mask)
    assert (reaction.before, reaction.after) == (1.0, 0.5)
    assert reaction.predicted == pytest.approx(0.5, abs=0.1)
    assert reaction.share == pytest.approx(0.5, abs=0.1)
    assert len(reaction.found) == 1
    assert reaction.iou == pytest.approx(1)
    everything = np.ones_like(mask)
    assert predicted_score(explanation, everything, 1.0) == pytest.approx(0, abs=1e-3)
    assert evidence_share(explanation, everything) == pytest.approx(1)


def test_a_map_that_shares_out_no_score_predicts_none() -> None:
    detector = sees(share(20, 30, 8, 8))
    (explanation,) = detxai.explain(detector, WHITE, "d_rise", detector.detect(WHITE, 0.0), n_masks=60, progress=False)
    assert predicted_score(explanation, np.ones((HEIGHT, WIDTH), dtype=bool), 1.0) is None
