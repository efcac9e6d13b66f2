"""Explain a detector of which only the answers are known: here an ONNX model, run by onnxruntime.

python examples/explain_onnx.py --out explained            # needs: pip install "detxai[onnx]"
The bundled detector is exported to explained/detector.onnx and explained through onnxruntime and, as a check, in the
same way through PyTorch. A TensorRT engine or a web service takes the place of ``onnx_detector`` alike.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn

import detxai
import detxai.scenes
from detxai.images import load_image, to_uint8

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
OUTPUTS = ("boxes", "scores", "labels")


def onnx_detector(file: Path) -> Callable[[list[Image]], list[dict[str, Any]]]:
    """The model in ``file`` as a function from images to their detections: all that detxai needs."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def detect(images: list[Image]) -> list[dict[str, Any]]:
        # this export takes one image at a time; one that takes batches would get np.stack(images) in one go
        inputs = [{"image": image.transpose(2, 0, 1).astype(np.float32) / 255} for image in images]
        return [dict(zip(OUTPUTS, session.run(list(OUTPUTS), one))) for one in inputs]

    return detect


def pytorch_detector(model: nn.Module) -> Callable[[list[Image]], list[dict[str, Tensor]]]:
    """The same of a torchvision model: the check, which sees as little of it."""

    def detect(images: list[Image]) -> list[dict[str, Tensor]]:
        answers: list[dict[str, Tensor]] = model([torch.from_numpy(image).permute(2, 0, 1) / 255 for image in images])
        return answers

    return detect


class OneImage(nn.Module):
    """A torchvision detector as an exporter wants it: tensors in, tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (output,) = self.model([image])
        return tuple(output[name] for name in OUTPUTS)


def export(model: nn.Module, size: tuple[int, int], file: Path) -> None:
    """Write ``model`` for images of ``size`` (height, width); the number of detections stays free."""
    with warnings.catch_warnings():  # of a tracing exporter, about code that depends on the image's size alone
        warnings.simplefilter("ignore")
        torch.onnx.export(
            OneImage(model).eval(),
            (torch.rand(3, *size),),
            str(file),
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "n_detections"} for name in OUTPUTS},
            opset_version=17,
            dynamo=False,  # torchvision's detectors decide how many boxes they keep: only a trace takes that
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="default: a scene whose evidence is known")
    parser.add_argument("--n-masks", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    image = detxai.scenes.generate(seed=3, kind="context").image
    if given.image is not None:
        image = to_uint8(load_image(given.image))
    given.out.mkdir(parents=True, exist_ok=True)
    model = detxai.scenes.load_frcnn()
    export(model, image.shape[:2], given.out / "detector.onnx")

    detector = detxai.wrap(onnx_detector(given.out / "detector.onnx"), class_names=model.class_names)
    detections = detector.detect(image, score_threshold=0.25)
    method = detxai.DRISE(n_masks=given.n_masks, seed=0)
    explanations = method(detector, image, detections)
    checks = method(detxai.wrap(pytorch_detector(model)), image, detections)
    for i, (explanation, check) in enumerate(zip(explanations, checks)):
        picture = explanation.save(given.out / f"{i:02d}.png")
        correlation = np.corrcoef(explanation.values.ravel(), check.values.ravel())[0, 1]
        print(f"{explanation.caption} -> {picture}; correlation with PyTorch {correlation:.6f}")
    if not explanations:
        print("nothing scores above 0.25")


if __name__ == "__main__":
    main()
