"""Explain the detections in a photo: wrap a detector, detect, explain, save.

python examples/explain_photo.py --model yolov8n.pt --image street.jpg --out explained
Without --model and --image, the bundled detector explains a bundled scene, offline.
"""

import argparse
from pathlib import Path

import detxai
import detxai.scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-frcnn", help="what detxai.wrap takes: a name or a YOLO .pt")
    parser.add_argument("--image", type=Path, help="default: a scene whose evidence is known")
    parser.add_argument("--method", default="ablation_cam")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    detector = detxai.wrap(given.model)
    image = detxai.scenes.generate(seed=3, kind="context").image if given.image is None else given.image
    detections = detector.detect(image, score_threshold=0.25)
    explanations = detxai.explain(detector, image, method=given.method, detections=detections)

    given.out.mkdir(parents=True, exist_ok=True)
    for i, explanation in enumerate(explanations):
        picture = explanation.save(given.out / f"{i:02d}.png")
        explanation.save_map(given.out / f"{i:02d}.npz")
        print(explanation.caption, "->", picture)
    if not explanations:
        print("nothing scores above 0.25")


if __name__ == "__main__":
    main()
