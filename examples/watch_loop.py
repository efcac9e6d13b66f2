"""Watch what a torchvision detector looks at while it learns, in a plain PyTorch loop.

python examples/watch_loop.py --out watched
Trains a small Faster R-CNN on generated scenes in which a watermark in the corner always goes with one class. Work at
OUT/panel (a strip and a GIF for each box), OUT/curves.csv and OUT/alarms.csv, or run: tensorboard --logdir OUT
"""

import argparse
from pathlib import Path

import torch

from detxai.callbacks.loop import ExplanationMonitor
from detxai.callbacks.panel import PanelImage
from detxai.scenes import CLASS_NAMES, KINDS, SceneDataset, generate
from detxai.scenes.detectors.frcnn import build_frcnn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="shortcut", help="kind of scene")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--scenes", type=int, default=320, help="in an epoch")
    parser.add_argument("--panel", type=int, default=12, help="images watched")
    parser.add_argument("--budget", type=float, default=0.02, help="share of the training time; 0: no limit")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    torch.manual_seed(0)
    model = build_frcnn()
    optimizer = torch.optim.AdamW(model.parameters(), 1.5e-3)
    training = SceneDataset(given.scenes, seed=1_000_000, kind=given.kind)
    loader = torch.utils.data.DataLoader(training, batch_size=8, shuffle=True, collate_fn=list)

    # any images do; with their objects given, the same question is asked from the first epoch on
    scenes = [generate(seed, given.kind) for seed in range(given.panel)]
    panel = [PanelImage(s.image, f"scene {s.seed}", s.boxes, s.labels + 1, s.evidence) for s in scenes]
    names = ["background", *CLASS_NAMES]
    with ExplanationMonitor(panel, out=given.out, budget=given.budget or None, class_names=names) as monitor:
        for epoch in range(given.epochs):
            model.train()
            total = 0.0
            for batch in loader:
                targets = [{key: target[key] for key in ("boxes", "labels")} for _, target in batch]
                loss = torch.stack(list(model([image for image, _ in batch], targets).values())).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach())
            report = monitor.step(model, epoch)
            print(f"epoch {epoch}: loss {total / len(loader):.3f}, {len(report.snapshots) if report else 0} boxes seen")
            for alarm in report.alarms if report else ():
                print(alarm)
    print("explained in", monitor.folder)


if __name__ == "__main__":
    main()
