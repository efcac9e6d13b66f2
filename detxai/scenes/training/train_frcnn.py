"""Train the small Faster R-CNN: every step on scenes never seen before."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torchvision.models.detection import FasterRCNN
from tqdm import tqdm

from detxai.runs.checkpoints import load_checkpoint, save_checkpoint
from detxai.scenes.detectors.frcnn import build_frcnn
from detxai.scenes.detectors.weights_file import save_weights
from detxai.scenes.training.dataset import TRAIN_SEED, SceneDataset
from detxai.scenes.training.hint import FarHint, far_labels_present

log = logging.getLogger("detxai.scenes")


@dataclass(frozen=True)
class FrcnnTraining:
    """Settings of a run; the same settings on the same device give the same weights."""

    steps: int = 3000
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    seed: int = 0
    checkpoint_every: int = 250
    average_decay: float = 0.995


def train_frcnn(out: Path, settings: FrcnnTraining, device: str = "cpu", progress: bool = True) -> Path:
    """Train, or go on from ``out/checkpoint.pt``; returns the path of ``scenes_frcnn.safetensors``.

    Raises:
        ValueError: the checkpoint there was made with other settings.
    """
    torch.manual_seed(settings.seed)
    model = build_frcnn().to(device, memory_format=torch.channels_last).train()
    hint = FarHint([model.backbone.out_channels] * 4).to(device)
    average = AveragedModel(model, avg_fn=_moving_average(settings.average_decay), use_buffers=True)
    weights_to_learn = [*model.parameters(), *hint.parameters()]
    optimizer = torch.optim.AdamW(weights_to_learn, settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps, pct_start=0.08, anneal_strategy="cos"
    )
    parts = {"model": model, "hint": hint, "average": average, "optimizer": optimizer, "schedule": schedule}
    checkpoint = out / "checkpoint.pt"
    first, _ = load_checkpoint(checkpoint, parts, settings)
    bar = tqdm(total=settings.steps, initial=first, unit="step", disable=not (progress and sys.stderr.isatty()))
    for step in range(first, settings.steps):
        images, targets = _batch(step, settings, device)
        # the sampling of anchors draws from this generator; a seed per step makes a resumed run the same run
        torch.manual_seed(settings.seed * 1_000_003 + step)
        parts_of_loss = losses(model, hint, images, targets)
        loss = torch.stack(list(parts_of_loss.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights_to_learn, 5.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        bar.update()
        if step % 50 == 0:
            described = ", ".join(f"{name} {float(value.detach()):.3f}" for name, value in parts_of_loss.items())
            log.info("step %d of %d: %s", step, settings.steps, described)
        if (step + 1) % settings.checkpoint_every == 0:
            save_checkpoint(checkpoint, parts, settings, step + 1)
    bar.close()
    weights = out / "scenes_frcnn.safetensors"
    save_weights(average.module.state_dict(), weights, {"licence": "Apache-2.0"})
    return weights


def losses(
    model: FasterRCNN, hint: FarHint, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The four losses of one batch, and the hint's.

    The backbone runs in bfloat16: three times as fast as float32 on a CPU that has AMX.
    """
    batch, transformed = model.transform(images, targets)
    with torch.autocast(batch.tensors.device.type, torch.bfloat16):
        features = model.backbone(batch.tensors.contiguous(memory_format=torch.channels_last))
    features = {name: level.float() for name, level in features.items()}
    proposals, proposal_losses = model.rpn(batch, features, transformed)
    _, detector_losses = model.roi_heads(features, proposals, batch.image_sizes, transformed)
    labels = torch.cat([target["labels"] for target in targets]) - 1
    counts = torch.tensor([len(target["labels"]) for target in targets], device=labels.device)
    picture = torch.repeat_interleave(torch.arange(len(targets), device=labels.device), counts)
    present = far_labels_present(labels, picture, len(targets))
    levels = [features[name] for name in ("0", "1", "2", "3")]
    return {**detector_losses, **proposal_losses, "hint": hint(levels, present)}


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """An exponential moving average that follows quickly at first, so that it forgets the random start."""

    def update(average: Tensor, current: Tensor, n_averaged: Tensor | int) -> Tensor:
        if not average.is_floating_point():  # a count of batches
            return current
        count = int(n_averaged)
        return torch.lerp(average, current.to(average.dtype), 1 - min(decay, (1 + count) / (10 + count)))

    return update


def _batch(step: int, settings: FrcnnTraining, device: str) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    start = TRAIN_SEED + settings.seed * 100_000_000 + step * settings.batch_size
    scenes = SceneDataset(settings.batch_size, seed=start)
    items = [scenes[index] for index in range(settings.batch_size)]
    images = [image.to(device) for image, _ in items]
    return images, [{key: target[key].to(device) for key in ("boxes", "labels")} for _, target in items]
