"""A scene, its objects, and why each is what it is."""

from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
import numpy.typing as npt

from detxai.scenes.draw import Bools, paint
from detxai.scenes.plan import Body, Plan, plan_scene
from detxai.scenes.randomness import Dice
from detxai.scenes.world import DEFAULT_SIZE, Kind, Rule

Image = npt.NDArray[np.uint8]

_MARKED_ON_BODY: Final[tuple[Kind, ...]] = ("local", "redundant", "joint")


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture whose every label has a known cause.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        boxes: float32 (N, 4), xyxy, pixels: tight around the silhouette, as if nothing stood in front of it.
        labels: int64 (N,), indices into ``CLASS_NAMES``.
        silhouettes: bool (N, H, W).
        evidence: bool (N, H, W), the pixels that decide the label; all False where the label is decided by the
            *absence* of a mark (``gem-level``).
        evidence_parts: for each object its single marks, each bool (H, W); ``evidence`` is their union.
        rules: for each object ``"all"`` (every part is needed), ``"any"`` (one is enough) or ``"none"`` (no evidence).
        kind, seed, plan: where it came from.
    """

    image: Image
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    silhouettes: Bools
    evidence: Bools
    evidence_parts: tuple[tuple[Bools, ...], ...]
    rules: tuple[Rule, ...]
    kind: Kind
    seed: int
    plan: Plan

    def __len__(self) -> int:
        return len(self.labels)


def generate(seed: int, kind: Kind | None = None, size: int = DEFAULT_SIZE) -> Scene:
    """The scene of a seed: the same bytes on every machine.

    Args:
        seed: any integer >= 0.
        kind: one of ``KINDS``; None lets the seed choose.
        size: height and width in pixels, 96 to 1024; everything in the scene grows with it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    >>> scene = generate(0, "local")
    >>> scene.image.shape, scene.kind
    ((160, 160, 3), 'local')
    """
    check_integer("seed", seed, 0, 2**63)
    check_integer("size", size, 96, 1025)
    if kind is not None and kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))} or None, got {kind!r}")
    return _assemble(plan_scene(seed, kind, size))


def erase(scene: Scene, index: int, part: int | None = None) -> Image:
    """The picture as it would be had this object's evidence never been there: uint8 (H, W, 3).

    Painted again from the plan without the marks, so nothing but the evidence changes and nothing is patched over.

    Args:
        scene: the scene.
        index: which object, 0 to ``len(scene) - 1``.
        part: erase one of ``evidence_parts`` only; None erases all of them.

    Raises:
        IndexError: there is no such object or part.
    """
    marks = _labelled(scene.plan)[_checked_index("index", index, len(scene))].evidence
    if part is not None:
        marks = (marks[_checked_index("part", part, len(marks))],)
    return paint(scene.plan, without=frozenset(marks)).image


def erase_elsewhere(scene: Scene, index: int, seed: int = 0) -> tuple[Image, Bools]:
    """The control of ``erase``: as many pixels, none of them evidence of this object, painted flat.

    A compact patch takes the mean colour of what it covers. Where the evidence is a mark on the object, the patch is
    centred on the object too, the hardest place for a detector to ignore; where the evidence is the whole object or
    lies outside it, the patch keeps off the object.

    Args:
        scene: the scene.
        index: which object.
        seed: chooses the place.

    Returns:
        The picture, uint8 (H, W, 3), and the patch, bool (H, W).
    """
    _checked_index("index", index, len(scene))
    allowed = ~_grown(scene.evidence[index])
    if scene.kind not in _MARKED_ON_BODY:
        allowed &= ~_grown(scene.silhouettes[index])
    dice = Dice(scene.seed, stream=2000 + 100 * index + seed)
    inside = scene.silhouettes[index] & allowed
    candidates = inside if scene.kind in _MARKED_ON_BODY and inside.any() else allowed
    rows, columns = np.nonzero(candidates)
    centre = dice.integer(0, len(rows))
    patch = _nearest_pixels(allowed, int(rows[centre]), int(columns[centre]), int(scene.evidence[index].sum()))
    image = scene.image.copy()
    if patch.any():
        image[patch] = image[patch].astype(np.int64).sum(axis=0) // patch.sum()
    return image, patch


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """``value`` as an int in [low, high).

    Raises:
        TypeError, ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if not low <= value < high:
        raise ValueError(f"{name} must lie in [{low}, {high}), got {value}")
    return int(value)


def _assemble(plan: Plan) -> Scene:
    painting = paint(plan)
    size = plan.size
    numbers = [number for number, body in enumerate(plan.bodies) if body.label is not None]
    bodies = _labelled(plan)
    parts = tuple(tuple(painting.mark_masks[mark] for mark in body.evidence) for body in bodies)
    evidence = np.zeros((len(bodies), size, size), bool)
    for row, masks in enumerate(parts):
        for mask in masks:
            evidence[row] |= mask
    silhouettes = painting.body_masks[numbers]
    boxes = np.array([_bounds(mask) for mask in silhouettes], np.float32).reshape(-1, 4)
    labels = np.array([body.label for body in bodies], np.int64)
    rules = tuple(body.rule for body in bodies)
    return Scene(painting.image, boxes, labels, silhouettes, evidence, parts, rules, plan.kind, plan.seed, plan)


def _labelled(plan: Plan) -> list[Body]:
    return [body for body in plan.bodies if body.label is not None]


def _bounds(mask: Bools) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _grown(mask: Bools, pixels: int = 2) -> Bools:
    padded = np.pad(mask, pixels)
    height, width = mask.shape
    grown = np.zeros_like(mask)
    for dy in range(2 * pixels + 1):
        for dx in range(2 * pixels + 1):
            grown |= padded[dy : dy + height, dx : dx + width]
    return grown


def _nearest_pixels(allowed: Bools, row: int, column: int, count: int) -> Bools:
    rows, columns = np.nonzero(allowed)
    order = np.argsort((rows - row) ** 2 + (columns - column) ** 2, kind="stable")[:count]
    patch = np.zeros_like(allowed)
    patch[rows[order], columns[order]] = True
    return patch


def _checked_index(name: str, value: int, length: int) -> int:
    if not 0 <= value < length:
        raise IndexError(f"{name} must lie in [0, {length}), got {value}")
    return int(value)
