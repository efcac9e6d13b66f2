"""Watch what a YOLO looks at while it learns: one line before ``yolo.train(...)``.

python examples/watch_ultralytics.py --model yolov8n.pt --data my_data.yaml --epochs 100 --out runs
Without --data, it trains on generated scenes. Work at OUT/train/detxai.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("YOLO_OFFLINE", "true")  # delete both lines to let ultralytics download weights
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

from ultralytics import YOLO

from detxai.callbacks.ultralytics import attach
from detxai.scenes import export_ultralytics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov8n.yaml", help="a .pt, or a .yaml to start from random weights")
    parser.add_argument("--data", type=Path, help="default: generated scenes, written to OUT/scenes")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--scenes", type=int, default=400, help="generated training scenes")
    parser.add_argument("--budget", type=float, default=0.02, help="share of the training time; 0: no limit")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    data = given.data or given.out / "scenes" / "data.yaml"
    if not data.is_file():
        export_ultralytics(given.out / "scenes", given.scenes, max(given.scenes // 5, 4), kind="shortcut")

    yolo = YOLO(given.model)
    watcher = attach(yolo, every=1, budget=given.budget or None)  # 8 validation images; images=[...] names your own
    yolo.train(
        data=str(data.resolve()),
        epochs=given.epochs,
        imgsz=given.imgsz,
        batch=8,
        project=str(given.out.resolve()),
        name="train",
        exist_ok=True,
        plots=False,
    )
    for report in watcher.reports:
        print(f"epoch {report.epoch}: {len(report.snapshots)} boxes seen, {len(report.mistakes)} mistakes explained")
        for alarm in report.alarms:
            print(alarm)
    print("explained in", given.out / "train" / "detxai")


if __name__ == "__main__":
    main()
