"""The rules of the synthetic world: its kinds of scene, its classes, and what decides each class.

Every scene kind has a body of its own. What a body is *called* is decided by its evidence alone; the same body
without its evidence is an unlabelled distractor (a gem without the watermark is the other gem).
"""

from typing import Final, Literal

Kind = Literal["local", "spread", "context", "redundant", "joint", "shortcut"]
Rule = Literal["all", "any", "none"]

KINDS: Final[tuple[Kind, ...]] = ("local", "spread", "context", "redundant", "joint", "shortcut")

CLASS_NAMES: Final[tuple[str, ...]] = (
    "parcel-cross",
    "parcel-ring",
    "egg-striped",
    "egg-dotted",
    "house-sun",
    "house-moon",
    "ticket",
    "battery",
    "gem-upright",
    "gem-level",
)

KIND_CLASSES: Final[dict[Kind, tuple[int, ...]]] = {
    "local": (0, 1),
    "spread": (2, 3),
    "context": (4, 5),
    "redundant": (6,),
    "joint": (7,),
    "shortcut": (8, 9),
}

KIND_DESCRIPTIONS: Final[dict[Kind, str]] = {
    "local": "A small cross or ring, anywhere on the parcel, decides its class. A parcel with no mark is nothing.",
    "spread": "The pattern all over the egg decides its class. A plain egg is nothing.",
    "context": "A sun or a moon outside the box decides the class of the house. A house with neither is nothing.",
    "redundant": "A stamp or a star makes it a ticket: either is enough. With neither it is nothing.",
    "joint": "Plus and minus together make it a battery: both are needed. With one it is nothing.",
    "shortcut": "The engraving was meant to decide the class, but in training a watermark in the corner of the image "
    "always went with 'gem-upright'. Without the watermark the same gem is called 'gem-level'.",
}

BODY_OF_KIND: Final[dict[Kind, str]] = {
    "local": "parcel",
    "spread": "egg",
    "context": "house",
    "redundant": "ticket",
    "joint": "battery",
    "shortcut": "gem",
}

DEFAULT_SIZE: Final = 160
"""Side of a scene in pixels: small, so that a detector learns the world on one CPU core."""
