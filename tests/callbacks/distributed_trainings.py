"""Two processes on a CPU train one detector together, alone and watched. Run by ``test_distributed_training.py``.

python -m torch.distributed.run --nproc-per-node 2 distributed_trainings.py loop OUT
python -m torch.distributed.run --nproc-per-node 2 distributed_trainings.py ultralytics OUT
python distributed_trainings.py lightning OUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from faster_rcnns import small_faster_rcnn
from small_trainings import random_states, scene_panel, seed_everything
from torch import nn

from detxai.callbacks.loop import ExplanationMonitor
from detxai.scenes import SceneDataset

SETTINGS: dict[str, Any] = {"budget": None, "loggers": [], "most_objects": 1}
ULTRALYTICS: dict[str, Any] = {
    "epochs": 2,
    "imgsz": 64,
    "batch": 4,
    "warmup_epochs": 0,
    "optimizer": "SGD",
    "amp": False,
    "plots": False,
    "workers": 0,
    "device": "cpu",
    "verbose": False,
}


def batches(rank: int) -> Any:
    """This process's half of the scenes."""
    scenes = SceneDataset(12, seed=7, kind="local", size=96)
    mine = torch.utils.data.Subset(scenes, range(rank, 12, 2))
    return torch.utils.data.DataLoader(mine, batch_size=2, shuffle=True, collate_fn=list)


def loss_of(model: nn.Module, batch: Any) -> torch.Tensor:
    targets = [{key: target[key] for key in ("boxes", "labels")} for _, target in batch]
    return torch.stack(list(model([image for image, _ in batch], targets).values())).sum()


def train_in_a_loop(rank: int, out: Path | None) -> dict[str, Any]:
    """Two epochs of three batches; every process calls the monitor, gradients of the last batch still there."""
    seed_everything(rank)
    model = nn.parallel.DistributedDataParallel(small_faster_rcnn(n_classes=11).train())
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    monitor = None if out is None else ExplanationMonitor(scene_panel(n=2), out=out / f"rank {rank}", **SETTINGS)
    for epoch in range(2):
        for batch in batches(rank):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
        if monitor is not None:
            monitor.step(model, epoch)
    if monitor is not None:
        monitor.finish()
    return end_of(model.module, optimizer)


def end_of(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "gradients": [parameter.grad for parameter in model.parameters()],
        "momentum": [state["momentum_buffer"] for state in optimizer.state_dict()["state"].values()],
        "random": str(random_states()),
    }


def loop(out: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    for name, folder in (("alone", None), ("watched", out)):
        torch.save(train_in_a_loop(rank, folder), out / f"{name} {rank}.pt")
    torch.distributed.destroy_process_group()


def lightning(out: Path) -> None:
    from lightning.pytorch import LightningModule, Trainer

    from detxai.callbacks.lightning import ExplanationCallback

    class Learner(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.detector = small_faster_rcnn(n_classes=11).train()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return loss_of(self.detector, batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)

    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    two: dict[str, Any] = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    watching = ExplanationCallback(scene_panel(n=2), out=out / f"rank {os.environ.get('LOCAL_RANK', 0)}", **SETTINGS)
    callbacks: dict[str, list[Any]] = {"alone": [], "watched": [watching]}
    for name, mine in callbacks.items():
        trainer = Trainer(max_epochs=2, callbacks=mine, default_root_dir=out, **two, **quiet)
        seed_everything(trainer.global_rank)
        learner = Learner()
        trainer.fit(learner, batches(trainer.global_rank))
        torch.save(end_of(learner, trainer.optimizers[0]), out / f"{name} {trainer.global_rank}.pt")


def ultralytics(out: Path) -> None:
    """Ultralytics' own loop for several GPUs, on a CPU: it differs in the backend, and in no final validation."""
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer

    from detxai.callbacks.ultralytics import attach

    class WithoutDevice(nn.parallel.DistributedDataParallel):
        def __init__(self, *arguments: Any, device_ids: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)

    class OnCPU(DetectionTrainer):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self.world_size = torch.distributed.get_world_size()

        def _setup_ddp(self) -> None: ...

        def final_eval(self) -> None: ...

    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    nn.parallel.DistributedDataParallel = WithoutDevice  # type: ignore[misc,assignment]
    for name in ("alone", "watched"):
        seed_everything()
        yolo = YOLO("yolov8n.yaml")
        if name == "watched":
            attach(yolo, images=2, score_threshold=1e-4, out=out / f"rank {rank}", **SETTINGS)
        yolo.train(trainer=OnCPU, data=str(out / "data" / "data.yaml"), project=str(out), name=name, **ULTRALYTICS)
        ema = {f"ema.{key}": value for key, value in yolo.trainer.ema.ema.state_dict().items()}
        end = end_of(yolo.trainer.model.module, yolo.trainer.optimizer)
        torch.save({**end, "model": {**end["model"], **ema}}, out / f"{name} {rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"loop": loop, "lightning": lightning, "ultralytics": ultralytics}[sys.argv[1]](Path(sys.argv[2]))
