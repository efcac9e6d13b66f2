"""Evaluate a detector on a COCO dataset as torchvision's reference script does, then ask why it erred.

python examples/evaluate_and_explain.py --model fasterrcnn_resnet50_fpn --weights weights.pth \
    --images val2017 --annotations instances_val2017.json --out explained
Without --model, --images and --annotations, the bundled detector is evaluated on bundled scenes, offline.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image

import detxai.coco
import detxai.scenes
from detxai.adapters.loading import load_detector
from detxai.data.categories import label_to_category


class CocoImages(Dataset):
    """The images of an annotation file, as torchvision detectors take them."""

    def __init__(self, images: Path, coco: COCO) -> None:
        self.images, self.coco, self.ids = images, coco, sorted(coco.imgs)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        record = self.coco.imgs[self.ids[index]]
        picture = decode_image(str(self.images / record["file_name"]), ImageReadMode.RGB)
        return picture.float() / 255, self.ids[index]


@torch.inference_mode()
def evaluate(model: nn.Module, data: DataLoader, coco: COCO, categories: dict[int, int]) -> COCOeval:
    """The usual loop: predict, collect results, let pycocotools count."""
    model.eval()
    device = next(model.parameters()).device
    results = []
    for pictures, image_ids in data:
        outputs = model([picture.to(device) for picture in pictures])
        for output, image_id in zip(outputs, image_ids, strict=True):
            corners = output["boxes"].cpu()
            boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
            for box, score, label in zip(boxes, output["scores"].tolist(), output["labels"].tolist(), strict=True):
                category = categories.get(label)
                if category is not None:
                    results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="scenes-frcnn", help="a torchvision builder, or file.py:function of your own"
    )
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--method", default="ablation_cam")
    parser.add_argument("--worst", type=int, default=30, help="explain the boxes that cost most AP")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    if given.annotations is None:
        given.annotations = detxai.scenes.export_coco(tempfile.mkdtemp(), n_images=30, seed=7000)
        given.images = given.annotations.parent
    detector = load_detector(given.model, weights=given.weights)
    coco = COCO(str(given.annotations))
    data = DataLoader(CocoImages(given.images, coco), batch_size=2, collate_fn=lambda batch: tuple(zip(*batch)))
    evaluation = evaluate(detector.model, data, coco, label_to_category(detector, coco))

    # three lines more, and every mistake can be looked into
    selection = detxai.coco.Selection(worst=given.worst)
    done = detxai.coco.explain_errors(
        coco, evaluation.cocoDt, detector, images=given.images, out=given.out, method=given.method,
        evaluation=evaluation, selection=selection,
    )  # fmt: skip

    print(f"{done.n_explained} mistakes explained: open {done.folder / 'report.html'}")
    for explanation in detxai.coco.load(given.out)[:5]:
        print(explanation.caption)


if __name__ == "__main__":
    main()
