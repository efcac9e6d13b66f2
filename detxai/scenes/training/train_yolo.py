"""Train the small YOLO through Ultralytics (AGPL-3.0), which is imported only when asked for."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detxai.scenes.detectors.weights_file import save_weights
from detxai.scenes.detectors.yolo import YOLO_ARCHITECTURE, import_ultralytics
from detxai.scenes.export import export_ultralytics
from detxai.scenes.training.dataset import TRAIN_SEED
from detxai.scenes.training.hint import FarHint, far_labels_present

log = logging.getLogger("detxai.scenes")


@dataclass(frozen=True)
class YoloTraining:
    """Settings of a run. Every augmentation that could move or hide the evidence is off."""

    n_train: int = 20_000
    n_val: int = 200
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 2e-3
    seed: int = 0


def train_yolo(out: Path, settings: YoloTraining, device: str = "cpu", progress: bool = True) -> Path:
    """Train, or go on from ``out/run/weights/last.pt``; returns the path of ``scenes_yolo.safetensors``.

    Raises:
        ImportError: ultralytics is not installed.
    """
    if not progress:
        os.environ.setdefault("YOLO_VERBOSE", "false")  # read when Ultralytics is imported
    yolo_class = import_ultralytics()
    data = out / "data" / "data.yaml"
    if not data.is_file():
        export_ultralytics(
            data.parent, settings.n_train, settings.n_val, TRAIN_SEED + settings.seed * 100_000_000, progress=progress
        )
    last = out / "run" / "weights" / "last.pt"
    if last.is_file():
        log.info("resuming %s", last)
        yolo = yolo_class(last)
        yolo.train(trainer=_trainer(), resume=True)
    else:
        yolo = yolo_class(YOLO_ARCHITECTURE, task="detect")
        yolo.train(trainer=_trainer(), data=str(data), device=device, **_arguments(out, settings))
    weights = out / "scenes_yolo.safetensors"
    averaged = torch.load(last, map_location="cpu", weights_only=False)  # made by this very run: an Ultralytics pickle
    model = averaged.get("ema") or averaged["model"]
    save_weights(model.float().state_dict(), weights, {"licence": "AGPL-3.0", "architecture": YOLO_ARCHITECTURE})
    return weights


def _arguments(out: Path, settings: YoloTraining) -> dict[str, Any]:
    off = ("mosaic", "mixup", "cutmix", "copy_paste", "fliplr", "flipud", "degrees", "shear", "perspective", "erasing")
    return {
        **dict.fromkeys(off, 0.0),
        "hsv_h": 0.0,
        "hsv_s": 0.0,
        "hsv_v": 0.0,
        "translate": 0.0,
        "scale": 0.0,
        "imgsz": 160,
        "epochs": settings.epochs,
        "batch": settings.batch_size,
        "nbs": settings.batch_size,
        "optimizer": "AdamW",
        "lr0": settings.learning_rate,
        "cos_lr": True,
        "warmup_epochs": 0.5,
        "seed": settings.seed,
        "deterministic": True,
        "amp": False,
        "plots": False,
        "workers": 0,
        "project": str(out.resolve()),
        "name": "run",
        "exist_ok": True,
        "save_period": -1,
        "verbose": False,
    }


def _trainer() -> type:
    """Ultralytics' own trainer plus ``FarHint``, and bfloat16 on a CPU, which it offers on CUDA only."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    class SceneTrainer(DetectionTrainer):
        hint: FarHint | None = None

        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            if self.hint is None:
                self.hint = _attach_hint(self.model, self.device)
                self.hint_optimizer = torch.optim.AdamW(self.hint.parameters(), 2e-3)
                if self.device.type == "cpu":
                    _lower_precision(self.model)
            prepared: dict[str, Any] = super().preprocess_batch(batch)
            return prepared

        def optimizer_step(self) -> None:
            super().optimizer_step()
            self.hint_optimizer.step()
            self.hint_optimizer.zero_grad()

    return SceneTrainer


def _attach_hint(model: Any, device: torch.device) -> FarHint:
    """Add the hint's loss to this instance's. Checkpoints hold Ultralytics' average, which never sees the hint."""
    detect, plain_loss = model.model[-1], model.loss
    hint = FarHint([branch[0].conv.in_channels for branch in detect.cv2]).to(device)
    levels: list[torch.Tensor] = []
    detect.register_forward_pre_hook(lambda _, inputs: levels.__setitem__(slice(None), list(inputs[0])))

    def loss_with_hint(batch: dict[str, Any], preds: Any = None) -> Any:
        loss, items = plain_loss(batch, preds)
        if not model.training:
            return loss, items
        count = len(batch["img"])
        present = far_labels_present(batch["cls"].flatten().long(), batch["batch_idx"].long(), count)
        # Ultralytics sums the parts of its loss, each already multiplied by the batch size
        return loss + hint(levels, present) * count / loss.numel(), items

    model.loss = loss_with_hint
    return hint


def _lower_precision(model: Any) -> None:
    """Let the network, not the loss, compute in bfloat16. Only this instance: checkpoints hold the plain average."""
    plain = model._predict_once

    def lowered(*arguments: Any, **options: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return _as_float(plain(*arguments, **options))

    model._predict_once = lowered


def _as_float(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _as_float(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_as_float(item) for item in value)
    return value
