"""The planted-evidence scenes as images to measure on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from detxai.evaluate.photos.photo import Photo, Pixels, Truth
from detxai.messages import did_you_mean
from detxai.metrics.inputs.case import Objects
from detxai.scenes.scene import generate
from detxai.scenes.world import CLASS_NAMES, KINDS, Kind

FIRST_SEED = 500  # the bundled detectors trained on none of the seeds that follow


def scene_photos(class_names: Mapping[int, str], kinds: Sequence[Kind] = KINDS, n: int = 10) -> list[Photo]:
    """``n`` scenes of each kind, the same every time.

    Args:
        class_names: the detector's, label -> name.
        kinds: some of ``detxai.scenes.KINDS``.
        n: of each kind.

    Raises:
        ValueError: an unknown kind, ``n`` below 1, or a detector that knows none of the scenes' classes.
    """
    kinds = kinds_of(kinds)
    if n < 1:
        raise ValueError(f"n_scenes must be at least 1, got {n}")
    labels = {CLASS_NAMES.index(name): label for label, name in class_names.items() if name in CLASS_NAMES}
    if not labels:
        raise ValueError(f"the detector knows none of the scenes' classes ({', '.join(CLASS_NAMES)})")
    return [
        Photo(f"{kind}-{seed}", partial(_load, seed, kind, labels), kind)
        for kind in kinds
        for seed in range(FIRST_SEED, FIRST_SEED + n)
    ]


def kinds_of(names: Sequence[str]) -> list[Kind]:
    """The kinds of scene with these names; all where there are none.

    Raises:
        ValueError: an unknown name.

    >>> kinds_of(["local", "local"])
    ['local']
    """
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        hint = did_you_mean(unknown[0], KINDS)
        raise ValueError(f"scenes must be some of {', '.join(KINDS)}, got {', '.join(unknown)}{hint}")
    return [kind for kind in KINDS if kind in names or not names]


def _load(seed: int, kind: Kind, labels: Mapping[int, int]) -> tuple[Pixels, Truth]:
    scene = generate(seed, kind)
    known = [i for i in range(len(scene)) if int(scene.labels[i]) in labels]
    objects = Objects(
        torch.from_numpy(scene.boxes[known]),
        torch.tensor([labels[int(scene.labels[i])] for i in known], dtype=torch.int64),
        torch.from_numpy(scene.silhouettes[known]),
    )
    size = scene.image.shape[:2]
    causes = [
        torch.stack([torch.from_numpy(part) for part in parts]) if parts else torch.zeros(0, *size, dtype=torch.bool)
        for parts in (scene.evidence_parts[i] for i in known)
    ]
    return scene.image, Truth(objects, torch.from_numpy(scene.evidence[known]), causes)
