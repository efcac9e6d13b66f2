"""What a scene consists of, drawn from its seed before a single pixel is painted.

A ``Plan`` is plain data. Painting it twice, once without a mark, gives the scene and its counterfactual.
"""

from dataclasses import dataclass, field
from typing import Final

from detxai.scenes.randomness import Dice
from detxai.scenes.world import BODY_OF_KIND, CLASS_NAMES, KIND_CLASSES, KINDS, Kind, Rule

Colour = tuple[float, float, float]

# twice: their scenes hold fewer objects, and a cause far from the box is the harder one to learn
_MIXTURE: Final[tuple[Kind, ...]] = (*KINDS, "context", "shortcut")


@dataclass(frozen=True)
class Stamp:
    """A shape laid on the canvas: centre and half size in pixels, orientation as the unit vector of its x axis."""

    shape: str
    x: float
    y: float
    half: float
    turn: tuple[float, float]
    colour: Colour
    opacity: float = 1.0


@dataclass(frozen=True)
class Mark:
    """Something that can be evidence; ``body`` is the index of the body it lies on, None for the scene itself."""

    stamp: Stamp
    body: int | None


@dataclass(frozen=True)
class Body:
    """A body; an object when it has a ``label`` (index into ``CLASS_NAMES``), else a distractor.

    ``evidence`` indexes ``Plan.marks``. ``engraving`` is the faint ruling of a gem: the intended cue of `shortcut`.
    """

    stamp: Stamp
    label: int | None
    evidence: tuple[int, ...]
    rule: Rule
    engraving: str | None = None


@dataclass(frozen=True)
class Plan:
    """Everything needed to paint a scene of ``size`` x ``size`` pixels."""

    seed: int
    kind: Kind
    size: int
    clutter: tuple[Stamp, ...]
    bodies: tuple[Body, ...]
    marks: tuple[Mark, ...]
    scuffs: tuple[Stamp, ...]


@dataclass
class _Draft:
    """A plan in the making; ``taken`` are circles (x, y, radius) that no later body may touch."""

    dice: Dice
    size: int
    bodies: list[Body] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    @property
    def scale(self) -> float:
        return self.size / 160


def plan_scene(seed: int, kind: Kind | None, size: int) -> Plan:
    """Draw the plan of one scene; ``kind=None`` lets the seed choose it."""
    dice = Dice(seed, stream=1)
    chosen = kind if kind is not None else dice.choice(_MIXTURE)
    draft = _Draft(dice, size)
    {"context": _plan_context, "shortcut": _plan_shortcut}.get(chosen, _plan_inside)(draft, chosen)
    for _ in range(dice.integer(0, 3)):
        _add_distractor(draft, chosen)
    clutter = tuple(_clutter(draft) for _ in range(dice.integer(2, 8)))
    scuffs = tuple(scuff for _ in range(dice.integer(0, 6)) if (scuff := _scuff(draft)) is not None)
    return Plan(seed, chosen, size, clutter, tuple(draft.bodies), tuple(draft.marks), scuffs)


def _plan_inside(draft: _Draft, kind: Kind) -> None:
    label = draft.dice.choice(KIND_CLASSES[kind])
    _add_object(draft, kind, label, first=True)
    for _ in range(draft.dice.integer(0, 3)):
        if draft.dice.chance(0.65):
            _add_object(draft, kind, draft.dice.choice(KIND_CLASSES[kind]))
        else:
            _add_decoy(draft, kind)


def _plan_context(draft: _Draft, kind: Kind) -> None:
    label = draft.dice.choice(KIND_CLASSES[kind])
    stamp = _body_stamp(draft, "house", first=True)
    if stamp is None:
        raise RuntimeError("the first body of a scene always finds a place")
    draft.taken.append((stamp.x, stamp.y, stamp.half * 1.3))
    mark = _sky_mark(draft, stamp, CLASS_NAMES[label].removeprefix("house-"))
    draft.marks.append(Mark(mark, None))
    draft.taken.append((mark.x, mark.y, mark.half * 1.5))
    draft.bodies.append(Body(stamp, label, (0,), "all"))


def _plan_shortcut(draft: _Draft, kind: Kind) -> None:
    label = draft.dice.choice(KIND_CLASSES[kind])
    upright = CLASS_NAMES[label] == "gem-upright"
    if upright:
        half = 29 * draft.scale
        x = draft.dice.uniform(3, 8) * draft.scale + half
        y = draft.size - draft.dice.uniform(10, 14) * draft.scale
        draft.marks.append(Mark(Stamp("watermark", x, y, half, (1.0, 0.0), (236.0, 238.0, 240.0), 0.85), None))
        draft.taken.extend((x + side * half, y, half * 0.6) for side in (-0.55, 0.0, 0.55))
    for number in range(draft.dice.integer(1, 3)):
        stamp = _body_stamp(draft, "gem", first=number == 0)
        if stamp is not None and upright:
            draft.bodies.append(Body(stamp, label, (0,), "all", "upright"))
        elif stamp is not None:
            draft.bodies.append(Body(stamp, label, (), "none", "level"))


def _add_object(draft: _Draft, kind: Kind, label: int, first: bool = False) -> None:
    stamp = _body_stamp(draft, BODY_OF_KIND[kind], first)
    if stamp is None:
        return
    dice, start = draft.dice, len(draft.marks)
    rule: Rule = "all"
    if kind == "local":
        name = CLASS_NAMES[label].removeprefix("parcel-")
        places = [(name, dice.uniform(-0.55, 0.55), dice.uniform(-0.43, 0.43), 0.27)]
    elif kind == "spread":
        places = [(CLASS_NAMES[label].removeprefix("egg-"), 0.0, 0.0, 1.0)]
    elif kind == "redundant":
        rule = "any"
        places = _two_places(dice, ("stamp", "star"), 0.27)
        if dice.chance(0.4):
            places = [dice.choice(places)]
    else:
        places = _two_places(dice, ("plus", "minus"), 0.27)
    for place in places:
        _add_mark(draft, stamp, len(draft.bodies), *place)
    draft.bodies.append(Body(stamp, label, tuple(range(start, len(draft.marks))), rule))


def _add_decoy(draft: _Draft, kind: Kind) -> None:
    """A body of this kind that lacks its evidence; of the two that a battery needs it mostly has one."""
    stamp = _body_stamp(draft, BODY_OF_KIND[kind])
    if stamp is None:
        return
    dice = draft.dice
    if kind == "joint" and dice.chance(0.8):
        places = _two_places(dice, ("plus", "minus"), 0.27)
        _add_mark(draft, stamp, len(draft.bodies), *dice.choice(places))
    elif kind == "joint" and dice.chance(0.5):
        sign = dice.choice(("plus", "minus"))
        for place in _two_places(dice, (sign, sign), 0.27):
            _add_mark(draft, stamp, len(draft.bodies), *place)
    draft.bodies.append(Body(stamp, None, (), "none"))


def _add_distractor(draft: _Draft, kind: Kind) -> None:
    """A body of another kind without its evidence. Gems always have a class, so they are never distractors."""
    other = draft.dice.choice([candidate for candidate in KINDS if candidate not in (kind, "shortcut")])
    _add_decoy(draft, other)


def _body_stamp(draft: _Draft, shape: str, first: bool = False) -> Stamp | None:
    """A place for a body that hides no earlier mark and little of an earlier body; None when there is none."""
    dice, scale = draft.dice, draft.scale
    smallest, largest = {"ticket": (22, 42), "battery": (22, 42)}.get(shape, (16, 40))
    tilt = dice.uniform(-0.3, 0.3) if shape in ("house", "gem") else dice.uniform(-0.6, 0.6)
    length = (1 + tilt * tilt) ** 0.5
    turn = (1 / length, tilt / length)
    colour = _body_colour(dice)
    for attempt in range(24):
        # squared: small objects are as common as in photographs; later tries are smaller, so that most fit
        fraction = dice.uniform(0, 1) ** (1 if first else 1.5 + attempt / 8)
        half = (smallest + (largest - smallest) * fraction) * scale
        reach = half * 1.12 + 2
        x, y = dice.uniform(reach, draft.size - reach), dice.uniform(reach, draft.size - reach)
        clear = all((x - tx) ** 2 + (y - ty) ** 2 > (reach + tr) ** 2 for tx, ty, tr in draft.taken)
        apart = all(
            (x - body.stamp.x) ** 2 + (y - body.stamp.y) ** 2 > (0.8 * (half + body.stamp.half)) ** 2
            for body in draft.bodies
        )
        if clear and apart:
            return Stamp(shape, x, y, half, turn, colour)
    return None


def _body_colour(dice: Dice) -> Colour:
    """A saturated or a dull paint, never near black or white."""
    high, low = dice.uniform(150, 225), dice.uniform(45, 140)
    middle = dice.uniform(low, high)
    order = dice.choice(((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)))
    levels = (high, middle, low)
    return levels[order[0]], levels[order[1]], levels[order[2]]


def contrast_colour(dice: Dice, under: Colour) -> Colour:
    """Dark on light paint, light on dark."""
    luminance = 0.3 * under[0] + 0.59 * under[1] + 0.11 * under[2]
    low, high = (12, 46) if luminance > 128 else (214, 250)
    return dice.uniform(low, high), dice.uniform(low, high), dice.uniform(low, high)


def _two_places(dice: Dice, names: tuple[str, str], half: float) -> list[tuple[str, float, float, float]]:
    """Two marks side by side on a wide body, in either order."""
    sides = (-1.0, 1.0) if dice.chance(0.5) else (1.0, -1.0)
    return [
        (name, side * dice.uniform(0.36, 0.5) - 0.04, dice.uniform(-0.16, 0.16), half)
        for name, side in zip(names, sides, strict=True)
    ]


def _add_mark(draft: _Draft, body: Stamp, index: int, name: str, right: float, down: float, half: float) -> None:
    cos, sin = body.turn
    x = body.x + (right * cos - down * sin) * body.half
    y = body.y + (right * sin + down * cos) * body.half
    colour = contrast_colour(draft.dice, body.colour)
    draft.marks.append(Mark(Stamp(name, x, y, half * body.half, body.turn, colour, 0.94), index))
    if half < 1:  # a pattern over the whole body may be overlapped a little, a mark may not
        draft.taken.append((x, y, half * body.half * 1.4))


def _sky_mark(draft: _Draft, house: Stamp, name: str) -> Stamp:
    """A sun or moon outside the box of the house, at most a fifth of the image away from its edge."""
    dice, scale = draft.dice, draft.scale
    half = dice.uniform(9, 12) * scale
    reach = house.half * 1.12 + 2
    colour = (255.0, 205.0, 40.0) if name == "sun" else (205.0, 226.0, 250.0)
    while True:
        x, y = (dice.uniform(half + 2, draft.size - half - 2) for _ in range(2))
        gap = max(abs(x - house.x), abs(y - house.y)) - reach - half
        if 4 * scale <= gap <= 0.2 * draft.size:
            return Stamp(name, x, y, half, (1.0, 0.0), colour)


def _clutter(draft: _Draft) -> Stamp:
    dice = draft.dice
    colour = (dice.uniform(30, 230), dice.uniform(30, 230), dice.uniform(30, 230))
    shape = dice.choice(("blob", "slab", "stick", "wedge"))
    x, y = dice.uniform(0, draft.size), dice.uniform(0, draft.size)
    return Stamp(shape, x, y, dice.uniform(3, 22) * draft.scale, dice.direction(), colour, dice.uniform(0.5, 1.0))


def _scuff(draft: _Draft) -> Stamp | None:
    """A flat patch on top of anything but a mark: a patch alone must never mean anything to a detector."""
    dice = draft.dice
    half = dice.uniform(2, 9) * draft.scale
    if draft.bodies and dice.chance(0.7):
        body = dice.choice(draft.bodies).stamp
        x, y = (dice.uniform(-0.7, 0.7) * body.half + centre for centre in (body.x, body.y))
        colour = _nudged(dice, body.colour)
    else:
        x, y = dice.uniform(0, draft.size), dice.uniform(0, draft.size)
        colour = (dice.uniform(60, 200), dice.uniform(60, 200), dice.uniform(60, 200))
    stamp = Stamp(dice.choice(("blob", "slab")), x, y, half, dice.direction(), colour, 0.9)
    touches = any((x - tx) ** 2 + (y - ty) ** 2 < (half * 1.15 + tr) ** 2 for tx, ty, tr in draft.taken)
    return None if touches else stamp


def _nudged(dice: Dice, colour: Colour) -> Colour:
    change = dice.uniform(-22, 22)
    red, green, blue = (min(max(channel + change, 0.0), 255.0) for channel in colour)
    return red, green, blue
