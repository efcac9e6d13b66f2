"""One image with parts of it hidden: exact where it is shown, the filling where it is not, padding untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn

import detxai
from detxai.engine.masking.canvas import Canvas, filling_image
from detxai.scenes import generate, load_frcnn


def test_all_shown_is_the_image_and_all_hidden_the_filling() -> None:
    detector = detxai.wrap(small_faster_rcnn(width=8))
    canvas = Canvas.with_fill(detector, photo(), "mean")
    shown, hidden = canvas.inputs(torch.stack([torch.ones(canvas.size), torch.zeros(canvas.size)])).tensor
    assert shown.equal(canvas.clean.tensor[0])
    height, width = canvas.size
    assert hidden[:, :height, :width].equal(canvas.filling[0, :, :height, :width])
    assert hidden[:, height:].equal(canvas.clean.tensor[0, :, height:])  # padding is no image: nothing hides it
    assert hidden[:, :, width:].equal(canvas.clean.tensor[0, :, :, width:])


@pytest.mark.parametrize("fill", ["black", "mean", "noise", (0.2, 0.4, 0.6)])
def test_hiding_before_or_after_the_models_preparation_is_the_same(fill: str) -> None:
    """Where the model does not resize, and the mask hides whole pixels, so that 8-bit images hold the result."""
    detector = detxai.wrap(load_frcnn())
    image = generate(seed=1, kind="local").image
    canvas = Canvas.with_fill(detector, image, fill)  # type: ignore[arg-type]
    if canvas.size != image.shape[:2]:
        pytest.skip("the bundled detector resizes now: choose another")
    keep = torch.rand(canvas.size, generator=torch.Generator().manual_seed(0)) > 0.5
    hidden = np.where(keep.numpy()[..., None], image, filling_image(image, fill))  # type: ignore[arg-type]
    by_hand = detector.prepare(hidden).tensor
    torch.testing.assert_close(canvas.inputs(keep[None].float()).tensor, by_hand, rtol=0, atol=1e-6)


def test_fillings() -> None:
    image = generate(seed=2, kind="local").image
    assert not filling_image(image, "black").any()
    assert abs(float(filling_image(image, "mean").mean()) - image.mean()) < 1
    blurred = filling_image(image, "blur")
    assert abs(blurred.mean() - image.mean()) < 3
    assert blurred.std((0, 1)).max() < 0.7 * image.std((0, 1)).max()
    assert np.array_equal(filling_image(image, "noise", 3), filling_image(image, "noise", 3))
    assert not np.array_equal(filling_image(image, "noise", 3), filling_image(image, "noise", 4))
    assert filling_image(image, (1.0, 0.5, 0.0))[0, 0].tolist() == [255, 128, 0]
    for bad in ("white", (0.1, 0.2), (0, 0, 1.5)):
        with pytest.raises(ValueError, match="fill must be"):
            filling_image(image, bad)  # type: ignore[arg-type]


def test_maps_go_to_the_input_and_back() -> None:
    canvas = Canvas.with_fill(detxai.wrap(small_faster_rcnn(width=8)), photo())
    height, width = canvas.geometry.image_size
    ramp = torch.linspace(0, 1, width).expand(2, height, width)
    there = canvas.from_image(ramp)
    assert there.shape == (2, *canvas.size)
    back = canvas.to_image(there)
    assert back.shape == (2, height, width)
    inner = slice(2, -2)
    torch.testing.assert_close(back[..., inner], ramp[..., inner], rtol=0, atol=0.01)
