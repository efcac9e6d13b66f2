"""pytorch-grad-cam's own methods on detectors: its GradCAM, HiResCAM, LayerCAM and EigenCAM, our targets and layers.

python examples/grad_cam_with_detxai.py --model yolov8n.pt --image street.jpg --out cams
"""

import argparse
from pathlib import Path

import numpy as np
from pytorch_grad_cam import EigenCAM, GradCAM, HiResCAM, LayerCAM

import detxai
from detxai.adapters import Detector, GradCamView
from detxai.explanation import Cost, Explanation
from detxai.images import load_image, to_uint8
from detxai.reshape import fpn_reshape_transform
from detxai.targets import ClassScoreTarget

METHODS = (GradCAM, HiResCAM, LayerCAM, EigenCAM)


def explain_box(detector: Detector, image: Path, detection: detxai.Detections) -> list[Explanation]:
    """grad-cam's methods, asked what made ``detection``, on any detector that detxai wraps."""
    view = GradCamView(detector, image)
    photo = to_uint8(load_image(image))
    explanations = []
    for method in METHODS:
        with method(view, view.target_layers) as cam:
            (map_,) = cam(view.input_tensor, targets=ClassScoreTarget.of(detection))
        # grad-cam's EigenCAM never looks at the target
        asked = None if method is EigenCAM else detection
        name = f"grad-cam's {method.__name__}"
        explanations.append(Explanation(view.to_image(map_), photo, name, {}, Cost(0, 1), detection=asked))
    return explanations


def eigen_cam_on_a_backbone(detector: Detector, image: Path) -> np.ndarray:
    """grad-cam's EigenCAM straight on torchvision's model, as its tutorial does, with our reshape transform."""
    tensor = detector.prepare(image).tensor
    with (
        detector.borrowed(),
        EigenCAM(detector.model, [detector.model.backbone], reshape_transform=fpn_reshape_transform) as cam,
    ):
        return cam(tensor, targets=[])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="what detxai.wrap takes: a name or a YOLO .pt")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--score-threshold", type=float, default=0.25)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    detector = detxai.wrap(given.model)
    detections = detector.detect(given.image, given.score_threshold)
    if not len(detections):
        raise SystemExit(f"nothing scores above {given.score_threshold}")
    given.out.mkdir(parents=True, exist_ok=True)
    for explanation in explain_box(detector, given.image, detections[0]):
        print(explanation.save(given.out / f"{explanation.method.split()[-1]}.png"))
    if detector.family == "faster_rcnn":
        map_ = eigen_cam_on_a_backbone(detector, given.image)
        print(f"EigenCAM on the backbone: {map_.shape[0]} x {map_.shape[1]} input pixels")


if __name__ == "__main__":
    main()
