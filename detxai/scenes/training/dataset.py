"""Scenes as a PyTorch dataset, in the form torchvision's detectors train on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detxai.scenes.scene import Scene, check_integer, generate
from detxai.scenes.world import DEFAULT_SIZE, Kind

TRAIN_SEED = 1_000_000
"""First seed of the shipped detectors' training scenes; they use nothing below it."""

HELD_OUT_SEED = 0
"""First seed of scenes that no shipped detector was trained on; they end before ``TRAIN_SEED``."""


class SceneDataset(Dataset[tuple[Tensor, dict[str, Any]]]):
    """``length`` scenes with consecutive seeds, made when asked for.

    An item is ``(image, target)``: the image float32 (3, H, W) in [0, 1], the target a dict of ``boxes`` float32
    (N, 4) xyxy, ``labels`` int64 (N,), ``evidence`` and ``masks`` bool (N, H, W), ``image_id`` (the seed) and ``kind``.

    Args:
        length: number of scenes.
        seed: seed of the first.
        kind: one of ``KINDS``; None mixes them.
        size: height and width in pixels.
        first_label: number of the first class: 1 for torchvision, which keeps 0 for the background; 0 for YOLO.

    >>> image, target = SceneDataset(4, seed=7)[0]
    >>> image.shape, target["image_id"]
    (torch.Size([3, 160, 160]), 7)
    """

    def __init__(
        self, length: int, *, seed: int = 0, kind: Kind | None = None, size: int = DEFAULT_SIZE, first_label: int = 1
    ) -> None:
        self.length = check_integer("length", length, 0, 2**40)
        self.seed = check_integer("seed", seed, 0, 2**62)
        self.first_label = check_integer("first_label", first_label, 0, 2)
        self.kind = kind
        self.size = size
        generate(self.seed, kind, size)  # raises now for a bad kind or size, not in a worker later

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> Scene:
        """The scene behind an item."""
        if not 0 <= index < self.length:
            raise IndexError(f"index must lie in [0, {self.length}), got {index}")
        return generate(self.seed + index, self.kind, self.size)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        scene = self.scene(index)
        target = {
            "boxes": torch.from_numpy(scene.boxes),
            "labels": torch.from_numpy(scene.labels) + self.first_label,
            "evidence": torch.from_numpy(scene.evidence),
            "masks": torch.from_numpy(np.ascontiguousarray(scene.silhouettes)),
            "image_id": scene.seed,
            "kind": scene.kind,
        }
        return image_tensor(scene.image), target


def image_tensor(image: Any) -> Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
