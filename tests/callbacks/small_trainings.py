"""Short real trainings on generated scenes, seeded, and everything of them that must not change."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from faster_rcnns import small_faster_rcnn
from torch import Tensor, nn

from detxai.callbacks.panel import PanelImage
from detxai.scenes import SceneDataset, generate


def scene_panel(kind: Any = "local", first: int = 40, n: int = 3, first_label: int = 1) -> list[PanelImage]:
    """Scenes with their objects and evidence, as a panel."""
    scenes = [generate(seed, kind) for seed in range(first, first + n)]
    return [
        PanelImage(one.image, f"scene {one.seed}", one.boxes, one.labels + first_label, one.evidence) for one in scenes
    ]


def seed_everything(seed: int = 0) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_states() -> tuple[Any, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


def train_in_a_plain_loop(
    after_epoch: Callable[[nn.Module, int], object],
    *,
    n_epochs: int = 2,
    accumulate: int = 1,
    precision: torch.dtype | None = None,
) -> tuple[nn.Module, Any, tuple[Any, ...]]:
    """torchvision's reference training in small: shuffled batches, dropout in the detector, SGD with momentum.

    ``after_epoch`` is called before the last gradients are used up, so that ``.grad`` is there to be spoilt; with a
    ``precision``, inside autocast's cache of lower-precision weights, as where a whole loop stands under autocast.

    Returns:
        The model, its optimizer, and the random states at the end.
    """
    seed_everything()
    scenes = SceneDataset(6, seed=7, kind="local", size=96)
    loader = torch.utils.data.DataLoader(scenes, batch_size=2, shuffle=True, collate_fn=list)
    model = small_faster_rcnn(n_classes=11).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    for epoch in range(n_epochs):
        model.train()
        with torch.autocast("cpu", precision, enabled=precision is not None):
            for step, batch in enumerate(loader):
                images = [image for image, _ in batch]
                targets = [{key: target[key] for key in ("boxes", "labels")} for _, target in batch]
                losses: dict[str, Tensor] = model(images, targets)
                torch.stack(list(losses.values())).sum().backward()
                if (step + 1) % accumulate == 0:
                    optimizer.step()
                    optimizer.zero_grad()
                    torch.clear_autocast_cache()  # the weights have changed
            after_epoch(model, epoch)
    return model, optimizer, random_states()


def everything_of(model: nn.Module) -> dict[str, Any]:
    """What must be as it was: weights, buffers, gradients, modes, what needs gradients, hooks."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "modules": [id(module) for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": [len(getattr(module, name)) for module in model.modules() for name in hooks],
    }


def same(first: Any, second: Any) -> bool:
    """Bit for bit, in any nesting."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second))
    return bool(first == second)
