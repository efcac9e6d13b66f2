"""Paint a plan. Every layer is blended pixel by pixel, so leaving out a mark changes the mark's own pixels only."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detxai.scenes.background import apply_light, paint_background
from detxai.scenes.plan import Body, Mark, Plan, Stamp
from detxai.scenes.randomness import Dice, Floats, smooth_noise, triangle_wave
from detxai.scenes.shapes import BODIES, CLUTTER, MARKS, Shape, watermark

Bools = npt.NDArray[np.bool_]
Window = tuple[slice, slice]


@dataclass
class Painting:
    """A finished scene: ``image`` uint8 (H, W, 3) RGB, and where each mark and each body shows, bool (n, H, W).

    ``body_masks`` ignore what lies in front of the body; ``mark_masks`` leave out the pixels that are hidden.
    """

    image: npt.NDArray[np.uint8]
    mark_masks: Bools
    body_masks: Bools


class _Canvas:
    """The picture so far, and the visible pixels of each mark."""

    def __init__(self, plan: Plan, without: frozenset[int]) -> None:
        self.plan = plan
        self.without = without
        self.dice = Dice(plan.seed, stream=2)
        self.softness = self.dice.uniform(1.0, 2.2)
        self.pixels = paint_background(self.dice, plan.size, blur=self.softness)
        self.mark_masks = np.zeros((len(plan.marks), plan.size, plan.size), bool)
        self.body_masks = np.zeros((len(plan.bodies), plan.size, plan.size), bool)

    def local(self, stamp: Stamp, margin: float) -> tuple[Window, Floats, Floats] | None:
        """The window around a stamp and its own coordinates there; None when it lies off the canvas."""
        reach = stamp.half * 1.3 + margin
        top, bottom = max(int(stamp.y - reach), 0), min(int(stamp.y + reach) + 1, self.plan.size)
        left, right = max(int(stamp.x - reach), 0), min(int(stamp.x + reach) + 1, self.plan.size)
        if top >= bottom or left >= right:
            return None
        dy = ((np.arange(top, bottom) + 0.5 - stamp.y) / stamp.half).astype(np.float32)[:, None]
        dx = ((np.arange(left, right) + 0.5 - stamp.x) / stamp.half).astype(np.float32)[None, :]
        cos, sin = np.float32(stamp.turn[0]), np.float32(stamp.turn[1])
        return (slice(top, bottom), slice(left, right)), dx * cos + dy * sin, dy * cos - dx * sin

    def blend(self, window: Window, alpha: Floats, colour: Floats) -> None:
        """Lay a colour, (3,) or (h, w, 3), over the window; what it covers fully is no longer visible."""
        area = self.pixels[window]
        area += alpha[..., None] * (colour - area)
        self.mark_masks[(slice(None), *window)] &= alpha < 1


def paint(plan: Plan, without: frozenset[int] = frozenset()) -> Painting:
    """Paint a scene, leaving out the marks whose indices are in ``without``."""
    canvas = _Canvas(plan, without)
    for stamp in plan.clutter:
        _paint_stamp(canvas, stamp, CLUTTER)
    for index, body in enumerate(plan.bodies):
        _paint_body(canvas, index, body)
        for number, mark in enumerate(plan.marks):
            if mark.body == index:
                _paint_mark(canvas, number, mark)
    for stamp in plan.scuffs:
        _paint_stamp(canvas, stamp, CLUTTER)
    for number, mark in enumerate(plan.marks):
        if mark.body is None:
            _paint_mark(canvas, number, mark)
    apply_light(canvas.dice, canvas.pixels)
    image = np.floor(np.clip(canvas.pixels, 0, 255) + np.float32(0.5)).astype(np.uint8)
    return Painting(image, canvas.mark_masks, canvas.body_masks)


def _coverage(distance: Floats, half: float, softness: float) -> Floats:
    return np.clip(np.float32(0.5) - distance * np.float32(half / softness), 0, 1)


def _paint_stamp(canvas: _Canvas, stamp: Stamp, shapes: Mapping[str, Shape]) -> None:
    place = canvas.local(stamp, 3)
    if place is not None:
        window, x, y = place
        alpha = _coverage(shapes[stamp.shape](x, y), stamp.half, canvas.softness) * np.float32(stamp.opacity)
        canvas.blend(window, alpha, np.array(stamp.colour, np.float32))


def _paint_body(canvas: _Canvas, index: int, body: Body) -> None:
    """A soft shadow, then the body with shading, a darker rim and grain; gems get their faint engraving."""
    stamp, dice = body.stamp, canvas.dice
    lit = dice.direction()
    shade, grain_level, rim = dice.uniform(0.08, 0.22), dice.uniform(3, 12), dice.uniform(0.55, 0.9)
    place = canvas.local(stamp, 4)
    if place is None:
        raise RuntimeError("a body always lies on the canvas")
    window, x, y = place
    distance = BODIES[stamp.shape](x, y)
    shadow = BODIES[stamp.shape](x + np.float32(0.1 * lit[0]), y + np.float32(0.1 * lit[1]))
    dark = np.clip(np.float32(0.5) - shadow * np.float32(4), 0, 1) * np.float32(0.45)
    canvas.blend(window, dark, np.zeros(3, np.float32))
    alpha = _coverage(distance, stamp.half, canvas.softness)
    light = 1 + np.float32(shade) * (x * np.float32(lit[0]) + y * np.float32(lit[1]))
    edge = np.clip(distance * np.float32(stamp.half / 3) + 1, 0, 1)
    light = light * (1 - edge * np.float32(1 - rim))
    grain = (smooth_noise(dice, x.shape[0], x.shape[1], 5, 5) - np.float32(0.5)) * np.float32(2 * grain_level)
    if body.engraving is not None:
        along = x if body.engraving == "upright" else y
        grain = grain + (triangle_wave(along * np.float32(3)) - np.float32(0.5)) * np.float32(8)
    colour = np.array(stamp.colour, np.float32) * light[..., None] + grain[..., None]
    canvas.blend(window, alpha, colour)
    canvas.body_masks[(index, *window)] = alpha >= 0.5


def _paint_mark(canvas: _Canvas, number: int, mark: Mark) -> None:
    if number in canvas.without:
        return
    stamp = mark.stamp
    if stamp.shape == "watermark":
        _paint_watermark(canvas, number, stamp)
        return
    place = canvas.local(stamp, 4)
    if place is None:
        return
    window, x, y = place
    if stamp.shape in ("striped", "dotted"):
        alpha = _pattern(canvas, mark, x, y)
        shown = _body_alpha(canvas, mark, x, y) > 0
    else:
        distance = MARKS[stamp.shape](x, y)
        alpha = _coverage(distance, stamp.half, canvas.softness)
        shown = alpha > 0
        if mark.body is None:  # a dark halo: the sun must stand out from any background
            halo = _coverage(distance - np.float32(1.6 / stamp.half), stamp.half, canvas.softness)
            canvas.blend(window, halo * np.float32(0.85), np.full(3, 25, np.float32))
            shown = halo > 0
    canvas.blend(window, alpha * np.float32(stamp.opacity), np.array(stamp.colour, np.float32))
    canvas.mark_masks[(number, *window)] = shown


def _body_alpha(canvas: _Canvas, mark: Mark, x: Floats, y: Floats) -> Floats:
    body = canvas.plan.bodies[mark.body or 0].stamp
    return _coverage(BODIES[body.shape](x, y), body.half, canvas.softness)


def _pattern(canvas: _Canvas, mark: Mark, x: Floats, y: Floats) -> Floats:
    """Coverage of stripes or dots all over the body; their pitch and direction are drawn from the seed."""
    dice = Dice(canvas.plan.seed, stream=1000 + (mark.body or 0))
    pitch = max(dice.uniform(0.36, 0.52), 7.5 / mark.stamp.half)
    cos, sin = dice.direction()
    u = np.asarray((x * np.float32(cos) + y * np.float32(sin)) / np.float32(pitch), np.float32)
    v = np.asarray((y * np.float32(cos) - x * np.float32(sin)) / np.float32(pitch), np.float32)
    hardness = np.float32(pitch * mark.stamp.half / canvas.softness / 2)
    if mark.stamp.shape == "striped":
        wave = triangle_wave(u) - np.float32(0.5)
    else:
        du, dv = triangle_wave(u), triangle_wave(v)
        wave = np.float32(0.6) - np.sqrt(du * du + dv * dv)
    return np.asarray(np.clip(np.float32(0.5) + wave * hardness, 0, 1) * _body_alpha(canvas, mark, x, y))


def _paint_watermark(canvas: _Canvas, number: int, stamp: Stamp) -> None:
    word = watermark(max(round(canvas.plan.size / 54), 1))
    top, left = int(stamp.y - word.shape[0] / 2), int(stamp.x - word.shape[1] / 2)
    for shift, colour, opacity in ((1, (20.0, 20.0, 20.0), 0.5), (0, stamp.colour, stamp.opacity)):
        window = (
            slice(top + shift, top + shift + word.shape[0]),
            slice(left + shift, left + shift + word.shape[1]),
        )
        canvas.blend(window, word * np.float32(opacity), np.array(colour, np.float32))
        canvas.mark_masks[(number, *window)] |= word > 0
