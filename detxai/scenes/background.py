"""Backgrounds and light: textured grounds of five styles, uneven lighting, a colour cast and sensor noise."""

from typing import Final

import numpy as np

from detxai.scenes.randomness import Dice, Floats, fractal_noise, smooth_noise, triangle_wave

STYLES: Final = ("cloudy", "wooden", "horizon", "tiled", "leafy")


def paint_background(dice: Dice, size: int, blur: float) -> Floats:
    """(size, size, 3) float32 in about [0, 255]; ``blur`` in pixels limits the finest detail."""
    style = dice.choice(STYLES)
    # finest octave no smaller than the blur of the lens, as out of focus as the bodies
    octaves = 5 if blur < 1.5 else 4
    weight = {
        "cloudy": _cloudy,
        "wooden": _wooden,
        "horizon": _horizon,
        "tiled": _tiled,
        "leafy": _leafy,
    }[style](dice, size, octaves)
    first, second = _palette(dice)
    tint = fractal_noise(dice, size, size, size / 2, 2, 0.5)[..., None]
    grey = dice.uniform(60, 180)
    third = np.array([grey + dice.uniform(-40, 40) for _ in range(3)], np.float32)
    ground = first + (second - first) * weight[..., None]
    return np.asarray(ground + (third - ground) * (tint * np.float32(0.5)))


def apply_light(dice: Dice, pixels: Floats) -> None:
    """Light the picture in place: a gradient, a vignette, a colour cast, then noise as of a sensor."""
    size = pixels.shape[0]
    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = axis[None, :], axis[:, None]
    cos, sin = dice.direction()
    slope, vignette, exposure = dice.uniform(0, 0.25), dice.uniform(0, 0.14), dice.uniform(0.82, 1.12)
    light = np.float32(exposure) * (1 + np.float32(slope) * (x * np.float32(cos) + y * np.float32(sin)))
    light = light - np.float32(vignette) * (x * x + y * y)
    cast = np.array([dice.uniform(0.92, 1.08) for _ in range(3)], np.float32)
    pixels *= light[..., None] * cast
    amplitude = np.float32(dice.uniform(2, 9))
    grain = dice.array(size, size, 1) + dice.array(size, size, 1) - np.float32(1)
    chroma = dice.array(size, size, 3) - np.float32(0.5)
    pixels += amplitude * (grain * np.float32(1.6) + chroma)


def _palette(dice: Dice) -> tuple[Floats, Floats]:
    grey = dice.uniform(55, 185)
    first = np.array([grey + dice.uniform(-38, 38) for _ in range(3)], np.float32)
    # a second colour at a bounded distance: loud enough to be texture, too quiet to be an object
    shift = dice.uniform(30, 75) * dice.choice((-1.0, 1.0))
    second = first + np.array([shift + dice.uniform(-22, 22) for _ in range(3)], np.float32)
    return first, np.clip(second, 15, 235)


def _cloudy(dice: Dice, size: int, octaves: int) -> Floats:
    return fractal_noise(dice, size, size, size / dice.uniform(2, 5), octaves, 0.6)


def _wooden(dice: Dice, size: int, octaves: int) -> Floats:
    grain = fractal_noise(dice, size, size, 12, octaves - 1, 0.6, stretch=dice.uniform(6, 14))
    bands = triangle_wave(grain * np.float32(dice.uniform(2, 5)))
    wood: Floats = (grain + bands) / np.float32(2)
    return wood.T.copy() if dice.chance(0.5) else wood


def _horizon(dice: Dice, size: int, octaves: int) -> Floats:
    level = dice.uniform(0.25, 0.7)
    ridge = smooth_noise(dice, 2, size, 1, size / 4)[:1] * np.float32(0.15)
    y = ((np.arange(size) + 0.5) / size).astype(np.float32)[:, None]
    ground = np.clip((y - np.float32(level) - ridge) * np.float32(size / 2), 0, 1)
    rough = fractal_noise(dice, size, size, 20, octaves, 0.65)
    return np.asarray(ground * (np.float32(0.45) + rough * np.float32(0.55)) + (1 - ground) * y * np.float32(0.4))


def _tiled(dice: Dice, size: int, octaves: int) -> Floats:
    side = dice.uniform(0.1, 0.25) * size
    index = (np.arange(size) + 0.5) / side + dice.uniform(0, 1)
    cell = np.floor(index).astype(np.int64)
    edge = np.abs(index - np.floor(index) - 0.5).astype(np.float32)
    joint = np.clip((np.maximum(edge[:, None], edge[None, :]) - np.float32(0.46)) * np.float32(25), 0, 1)
    tone = dice.array(int(cell[-1]) + 1, int(cell[-1]) + 1)[cell[:, None], cell[None, :]]
    rough = fractal_noise(dice, size, size, 10, octaves - 2, 0.6)
    face = tone * np.float32(0.5) + rough * np.float32(0.4)
    return np.asarray(face + joint * (np.float32(0.95) - face))


def _leafy(dice: Dice, size: int, octaves: int) -> Floats:
    total = np.zeros((size, size), np.float32)
    for cell in (26.0, 15.0, 9.0):
        patch = fractal_noise(dice, size, size, cell, max(octaves - 2, 2), 0.5)
        total += np.clip((patch - np.float32(0.5)) * np.float32(9), 0, 1) * np.float32(0.33)
    return total
