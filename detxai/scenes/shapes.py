"""Silhouettes as signed distances: negative inside, positive outside, in units of the half size of the shape.

A shape lives in its own coordinates ``x`` (right) and ``y`` (down), both about [-1, 1].
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from detxai.scenes.randomness import Floats

Shape = Callable[[Floats, Floats], Floats]


def disc(x: Floats, y: Floats, radius: float = 1.0, centre: tuple[float, float] = (0.0, 0.0)) -> Floats:
    """A filled circle."""
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    return np.asarray(np.sqrt(dx * dx + dy * dy) - np.float32(radius))


def block(
    x: Floats, y: Floats, half: tuple[float, float], centre: tuple[float, float] = (0, 0), corner: float = 0
) -> Floats:
    """A rectangle of these half sides, with rounded corners."""
    dx = np.abs(x - np.float32(centre[0])) - np.float32(half[0] - corner)
    dy = np.abs(y - np.float32(centre[1])) - np.float32(half[1] - corner)
    outside_x, outside_y = np.maximum(dx, 0), np.maximum(dy, 0)
    outside = np.sqrt(outside_x * outside_x + outside_y * outside_y)
    return np.asarray(outside + np.minimum(np.maximum(dx, dy), 0) - np.float32(corner))


def polygon(x: Floats, y: Floats, corners: Sequence[tuple[float, float]]) -> Floats:
    """Any simple polygon: distance to the nearest edge, with the sign of the even-odd rule."""
    nearest = np.full(x.shape, 1e9, np.float32)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        ex, ey = np.float32(bx - ax), np.float32(by - ay)
        px, py = x - np.float32(ax), y - np.float32(ay)
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        qx, qy = px - along * ex, py - along * ey
        nearest = np.minimum(nearest, qx * qx + qy * qy)
        if ay != by:
            crosses = (y < np.float32(ay)) != (y < np.float32(by))
            inside ^= crosses & (px < py * ex / ey)
    return np.where(inside, -np.sqrt(nearest), np.sqrt(nearest)).astype(np.float32)


def _egg(x: Floats, y: Floats) -> Floats:
    height = np.float32(0.78)
    scaled = y / height
    return np.asarray((np.sqrt(x * x + scaled * scaled) - np.float32(1)) * height)


def _ticket(x: Floats, y: Floats) -> Floats:
    bites = np.minimum(disc(x, y, 0.17, (-1.0, 0.0)), disc(x, y, 0.17, (1.0, 0.0)))
    return np.maximum(block(x, y, (1.0, 0.62), corner=0.05), -bites)


def _battery(x: Floats, y: Floats) -> Floats:
    return np.minimum(block(x, y, (0.86, 0.52), (-0.1, 0.0), 0.14), block(x, y, (0.12, 0.22), (0.86, 0.0), 0.05))


def _cross(x: Floats, y: Floats) -> Floats:
    return np.minimum(block(x + y, x - y, (1.35, 0.42)), block(x + y, x - y, (0.42, 1.35))) * np.float32(0.7071)


def _plus(x: Floats, y: Floats) -> Floats:
    return np.minimum(block(x, y, (0.95, 0.3)), block(x, y, (0.3, 0.95)))


def _moon(x: Floats, y: Floats) -> Floats:
    return np.maximum(disc(x, y, 0.95), -disc(x, y, 0.68, (0.5, -0.25)))


# star corners are written out: computed ones would depend on a libm
_STAR: Final = (
    (0.0, -1.0), (0.2351, -0.3236), (0.9511, -0.3090), (0.3804, 0.1236), (0.5878, 0.8090),
    (0.0, 0.4), (-0.5878, 0.8090), (-0.3804, 0.1236), (-0.9511, -0.3090), (-0.2351, -0.3236),
)  # fmt: skip
_SUN: Final = (
    (1.0, 0.0), (0.5543, 0.2296), (0.7071, 0.7071), (0.2296, 0.5543), (0.0, 1.0), (-0.2296, 0.5543),
    (-0.7071, 0.7071), (-0.5543, 0.2296), (-1.0, 0.0), (-0.5543, -0.2296), (-0.7071, -0.7071),
    (-0.2296, -0.5543), (0.0, -1.0), (0.2296, -0.5543), (0.7071, -0.7071), (0.5543, -0.2296),
)  # fmt: skip
_HOUSE: Final = ((-0.8, 0.85), (0.8, 0.85), (0.8, -0.15), (0.0, -0.95), (-0.8, -0.15))
_GEM: Final = ((-0.58, -0.75), (0.58, -0.75), (1.0, -0.2), (0.0, 0.92), (-1.0, -0.2))

BODIES: Final[dict[str, Shape]] = {
    "parcel": lambda x, y: block(x, y, (0.92, 0.8), corner=0.16),
    "egg": _egg,
    "house": lambda x, y: polygon(x, y, _HOUSE),
    "ticket": _ticket,
    "battery": _battery,
    "gem": lambda x, y: polygon(x, y, _GEM),
}

MARKS: Final[dict[str, Shape]] = {
    "cross": _cross,
    "ring": lambda x, y: np.abs(disc(x, y, 0.68)) - np.float32(0.27),
    "stamp": lambda x, y: np.maximum(block(x, y, (0.85, 0.85)), -disc(x, y, 0.36)),
    "star": lambda x, y: polygon(x, y, _STAR),
    "plus": _plus,
    "minus": lambda x, y: block(x, y, (0.95, 0.3)),
    "sun": lambda x, y: polygon(x, y, _SUN),
    "moon": _moon,
}

CLUTTER: Final[dict[str, Shape]] = {
    "blob": _egg,
    "slab": lambda x, y: block(x, y, (1.0, 0.55)),
    "stick": lambda x, y: block(x, y, (1.0, 0.12)),
    "wedge": lambda x, y: polygon(x, y, ((-0.9, 0.7), (0.9, 0.5), (0.1, -0.9))),
}

_LETTERS: Final = {
    "S": "111100111001111",
    "T": "111010010010010",
    "O": "111101101101111",
    "C": "111100100100111",
    "K": "101101110101101",
}


def watermark(scale: int) -> Floats:
    """(5 * scale, 19 * scale) coverage of the word STOCK in 3 x 5 letters, 0 or 1."""
    glyphs = [np.array([float(bit) for bit in _LETTERS[letter]], np.float32).reshape(5, 3) for letter in "STOCK"]
    gap = np.zeros((5, 1), np.float32)
    word = np.concatenate([column for glyph in glyphs for column in (glyph, gap)][:-1], axis=1)
    return np.repeat(np.repeat(word, scale, axis=0), scale, axis=1)
