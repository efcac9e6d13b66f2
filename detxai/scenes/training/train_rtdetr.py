"""Train the small RT-DETR, for a number of steps or of minutes."""

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from detxai.runs.checkpoints import load_checkpoint, save_checkpoint
from detxai.scenes.detectors.rtdetr import build_rtdetr
from detxai.scenes.detectors.weights_file import read_weights, save_weights
from detxai.scenes.training.hint import FAR_LABELS, FarHint
from detxai.scenes.training.set_loss import Objects, denoising_loss, matched_loss
from detxai.scenes.training.stream import SceneBatches, ScenePool

log = logging.getLogger("detxai.scenes")

SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class RtdetrTraining:
    """Settings of a run; with ``workers=0`` and no ``minutes`` the same settings on one device give the same weights.

    ``minutes`` ends the training after so much time, whatever the step, and ``steps`` no longer counts; ``workers``
    processes paint the scenes into a pool, 0 paints each batch when it is needed. ``initial`` names weights to start
    from.
    """

    steps: int = 4000
    minutes: float = 0.0
    workers: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: float = 0.04
    weight_decay: float = 1e-4
    seed: int = 0
    checkpoint_every: int = 250
    average_decay: float = 0.998
    initial: str = ""


def train_rtdetr(out: Path, settings: RtdetrTraining, device: str = "cpu", progress: bool = True) -> Path:
    """Train, or go on from ``out/checkpoint.pt``; returns the path of ``scenes_rtdetr.safetensors``.

    Raises:
        ImportError: transformers is not installed.
        ValueError: the checkpoint there was made with other settings.
    """
    scenes = _scenes(settings, device)
    try:
        with _fast_products():
            return _train(out, settings, device, progress, scenes)
    finally:
        scenes.close()


def losses(model: Any, hint: FarHint, images: Tensor, objects: Objects) -> dict[str, Tensor]:
    """The parts of one batch's loss, and the hint's.

    Args:
        model: ``build_rtdetr()``, in training mode.
        hint: for the encoder's levels.
        images: (B, 3, H, W) in [0, 1].
        objects: what is in them.
    """
    counts = objects.present.sum(1).tolist()
    objects = Objects(objects.labels[:, : max(counts)], objects.boxes[:, : max(counts)])
    listed = [
        {"class_labels": labels[:count], "boxes": boxes[:count]}
        for labels, boxes, count in zip(objects.labels, objects.boxes, counts, strict=True)
    ]
    outputs = model.model(images, labels=listed)
    logits = outputs.intermediate_logits.transpose(0, 1)
    boxes = outputs.intermediate_reference_points.transpose(0, 1)
    n_denoising, n_queries = outputs.denoising_meta_values["dn_num_split"]
    n_groups = outputs.denoising_meta_values["dn_num_group"]
    noisy_logits, logits = logits.split((n_denoising, n_queries), dim=2)
    noisy_boxes, boxes = boxes.split((n_denoising, n_queries), dim=2)
    chosen = matched_loss(
        torch.cat([logits, outputs.enc_topk_logits[None]]), torch.cat([boxes, outputs.enc_topk_bboxes[None]]), objects
    )
    noisy = denoising_loss(noisy_logits, noisy_boxes, objects, n_groups)
    present = torch.stack([(objects.labels == label).any(1) for label in FAR_LABELS], dim=1).float()
    asked = hint(outputs.encoder_last_hidden_state, present)
    return {**chosen, **{f"noisy {name}": value for name, value in noisy.items()}, "hint": asked}


class _Average:
    """An exponential moving average of a model that follows quickly at first, so that it forgets the random start."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        current = model.state_dict()  # shares memory with the model, which is only ever changed in place
        self.state = {name: value.clone() for name, value in current.items()}
        floats = [name for name, value in current.items() if value.is_floating_point()]
        self.averaged, self.current = [self.state[name] for name in floats], [current[name] for name in floats]
        self.decay = decay

    def update(self, step: int) -> None:
        torch._foreach_lerp_(self.averaged, self.current, 1 - min(self.decay, (1 + step) / (10 + step)))

    def state_dict(self) -> dict[str, Tensor]:
        return self.state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            self.state[name].copy_(value)


def _train(out: Path, settings: RtdetrTraining, device: str, progress: bool, scenes: SceneBatches | ScenePool) -> Path:
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    model = build_rtdetr()
    if settings.initial:
        model.load_state_dict(read_weights(Path(settings.initial)))
    model = model.to(device)
    hint = FarHint([model.config.d_model] * 3).to(device)
    to_learn = [*model.parameters(), *hint.parameters()]
    optimizer = torch.optim.AdamW(
        to_learn, settings.learning_rate, weight_decay=settings.weight_decay, fused=device.startswith("cuda")
    )
    average = _Average(model, settings.average_decay)
    parts = {"model": model, "hint": hint, "average": average, "optimizer": optimizer}
    checkpoint, weights = out / "checkpoint.pt", out / "scenes_rtdetr.safetensors"
    step, spent = load_checkpoint(checkpoint, parts, settings)
    bar = tqdm(initial=step, unit="step", disable=not (progress and sys.stderr.isatty()))
    saved = time.monotonic()
    while (done := _share_done(step, spent + time.monotonic() - started, settings)) < 1:
        images, objects = scenes.batch(step)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate(done, settings.warmup)
        # denoising draws from this generator; a seed per step makes a resumed run the same run
        torch.manual_seed(settings.seed * 1_000_003 + step)
        parts_of_loss = losses(model, hint, images, objects)
        loss = torch.stack(list(parts_of_loss.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(to_learn, 1.0, foreach=True)
        optimizer.step()
        average.update(step)
        bar.update()
        if step % 50 == 0:
            described = ", ".join(f"{name} {float(value.detach()):.3f}" for name, value in parts_of_loss.items())
            log.info("step %d, %.0f%% done, %s: %s", step, 100 * done, _speed(scenes, step, started), described)
        step += 1
        late = settings.minutes and time.monotonic() - saved > SAVE_SECONDS
        if late or (not settings.minutes and step % settings.checkpoint_every == 0):
            saved = time.monotonic()
            save_checkpoint(checkpoint, parts, settings, step, spent + saved - started)
            save_weights(average.state, weights, {"licence": "Apache-2.0"})
    bar.close()
    save_weights(average.state, weights, {"licence": "Apache-2.0"})
    log.info("ended at step %d after %.0f seconds", step, spent + time.monotonic() - started)
    return weights


def _scenes(settings: RtdetrTraining, device: str) -> SceneBatches | ScenePool:
    if not settings.workers:
        return SceneBatches(settings.seed, settings.batch_size, device)
    capacity = 400_000 if device.startswith("cuda") else 32_000
    return ScenePool(settings.seed, settings.batch_size, device, settings.workers, capacity)


def _share_done(step: int, seconds: float, settings: RtdetrTraining) -> float:
    return seconds / (60 * settings.minutes) if settings.minutes else step / settings.steps


def _rate(done: float, warmup: float) -> float:
    """The learning rate as a share of its highest: up in a straight line, down along a cosine."""
    if done < warmup:
        return max(done / warmup, 0.01)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def _speed(scenes: SceneBatches | ScenePool, step: int, started: float) -> str:
    painted = scenes.painted if isinstance(scenes, ScenePool) else step * scenes.batch_size
    return f"{time.monotonic() - started:.0f} s, {painted} scenes painted"


@contextmanager
def _fast_products() -> Iterator[None]:
    """Matrix products in TF32 where the device has it, while this lasts."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    cudnn.allow_tf32 = cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]
