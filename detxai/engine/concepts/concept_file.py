"""What ``detxai concepts find`` learns of a detector, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from detxai.adapters.network import NetworkDetector
from detxai.engine.concepts.mixture import Mixture, Removal
from detxai.runs.files import replacing

FILE = "concepts.safetensors"
_TENSORS = tuple(field.name for field in fields(Mixture) if field.name != "levels")


@dataclass(frozen=True, eq=False)
class Concepts:
    """The concepts of one detector.

    Concepts are numbered through all mixtures, in their order: those of the first mixture come first.

    Attributes:
        mixtures: one for each set of levels that share concepts.
        layers: names of the layers whose features they are of.
        fingerprint: of the detector's weights.
        removal: how a concept is removed where its effect is measured.
        card: what else is recorded of them, as JSON can hold it.
    """

    mixtures: tuple[Mixture, ...]
    layers: tuple[str, ...]
    fingerprint: str | None
    removal: Removal
    card: Mapping[str, Any]

    def __len__(self) -> int:
        return sum(len(mixture) for mixture in self.mixtures)

    def expect_detector(self, detector: NetworkDetector) -> None:
        """Raise ``ValueError`` where they are of a detector with other weights."""
        if detector.fingerprint() != self.fingerprint:
            raise ValueError(
                f"concepts are of another detector ({self.card.get('model')}), got {detector.model_name} with other "
                "weights; find its own with detxai concepts find"
            )

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            WriteError: it cannot be written.
        """
        tensors = {
            f"{number}.{name}": getattr(mixture, name).contiguous()
            for number, mixture in enumerate(self.mixtures)
            for name in _TENSORS
        }
        about = {
            "levels": [list(mixture.levels) for mixture in self.mixtures],
            "layers": list(self.layers),
            "fingerprint": self.fingerprint,
            "removal": self.removal,
            "card": dict(self.card),
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"detxai_concepts": json.dumps(about, allow_nan=False)})

    @classmethod
    def load(cls, path: Path) -> Concepts:
        """Read the file, or the one in a folder that ``detxai concepts find`` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it holds no concepts.
        """
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"concepts: no such file: {path}")
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["detxai_concepts"])
                mixtures = [
                    Mixture(tuple(levels), **{name: file.get_tensor(f"{number}.{name}") for name in _TENSORS})
                    for number, levels in enumerate(about["levels"])
                ]
                return cls(
                    tuple(mixtures), tuple(about["layers"]), about["fingerprint"], about["removal"], about["card"]
                )
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(f"concepts: {path} is not a file that detxai concepts find wrote: {error}") from error


def shared_levels(levels: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """Sets of levels that share concepts: those of one layer with the same number of channels, which one head reads.

    >>> shared_levels({"fpn:0": torch.ones(1, 4, 8, 8), "fpn:1": torch.ones(1, 4, 4, 4), "c5": torch.ones(1, 9, 2, 2)})
    [('fpn:0', 'fpn:1'), ('c5',)]
    """
    found: dict[tuple[str, int], list[str]] = {}
    for name, level in levels.items():
        found.setdefault((name.partition(":")[0], level.shape[1]), []).append(name)
    return [tuple(names) for names in found.values()]
