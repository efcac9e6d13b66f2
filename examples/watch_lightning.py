"""Watch what a detector in a LightningModule looks at while it learns: one more callback.

python examples/watch_lightning.py --out watched
Trains a small Faster R-CNN on generated scenes. Work at OUT/detxai, or run: tensorboard --logdir OUT
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything

from detxai.callbacks.lightning import ExplanationCallback
from detxai.callbacks.panel import PanelImage
from detxai.scenes import CLASS_NAMES, SceneDataset, generate
from detxai.scenes.detectors.frcnn import build_frcnn


class Learner(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.detector = build_frcnn()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        targets = [{key: target[key] for key in ("boxes", "labels")} for _, target in batch]
        losses = self.detector([image for image, _ in batch], targets)
        return torch.stack(list(losses.values())).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1.5e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--scenes", type=int, default=320, help="in an epoch")
    parser.add_argument("--panel", type=int, default=12, help="images watched")
    parser.add_argument("--budget", type=float, default=0.02, help="share of the training time; 0: no limit")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    seed_everything(0)
    scenes = [generate(seed, "shortcut") for seed in range(given.panel)]
    panel = [PanelImage(s.image, f"scene {s.seed}", s.boxes, s.labels + 1, s.evidence) for s in scenes]
    watching = ExplanationCallback(panel, budget=given.budget or None, class_names=["background", *CLASS_NAMES])
    training = SceneDataset(given.scenes, seed=1_000_000, kind="shortcut")
    loader = torch.utils.data.DataLoader(training, batch_size=8, shuffle=True, collate_fn=list)
    trainer = Trainer(
        max_epochs=given.epochs, accelerator="auto", devices=1, callbacks=[watching], default_root_dir=given.out
    )
    trainer.fit(Learner(), loader)
    for report in watching.reports:
        print(f"epoch {report.epoch}: {len(report.snapshots)} boxes seen")
        for alarm in report.alarms:
            print(alarm)
    print("explained in", given.out / "detxai")


if __name__ == "__main__":
    main()
