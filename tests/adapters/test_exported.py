"""Exported files: whatever the runtime and the layout, the answers are those of the network that was exported."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import nms

import detxai
from detxai.adapters.detector import Detector
from detxai.adapters.exported import ExportedAdapter, Preparation
from detxai.adapters.exported.detector import ExportedNetwork
from detxai.adapters.exported.files import Array, ExportedFile
from detxai.adapters.exported.layouts import IMAGENET_MEAN, IMAGENET_STD
from detxai.detections import Detections
from detxai.scenes import Kind, generate
from detxai.scenes import load_yolo as load_scenes_yolo

pytest.importorskip("ultralytics")

SIZE = 160
SEEDS: dict[Kind, int] = {"context": 3, "local": 5, "redundant": 8}
SCENES = [generate(seed, kind).image for kind, seed in SEEDS.items()]


class Exported(nn.Module):
    """The bundled YOLO, whose one output (B, 4 + C, N) is laid out in another way."""

    def __init__(
        self, lay_out: Callable[[Tensor], Any], undo: Callable[[Tensor], Tensor] = lambda image: image
    ) -> None:
        super().__init__()
        self.network = load_scenes_yolo().model.float().eval()
        self.lay_out, self.undo = lay_out, undo

    def forward(self, images: Tensor) -> Any:
        found, _ = self.network(self.undo(images))  # beside them what the loss would read
        return self.lay_out(found)


def with_objectness(found: Tensor) -> Tensor:
    rows = found.transpose(1, 2)
    best = rows[..., 4:].amax(-1, keepdim=True).clamp(min=1e-12)
    return torch.cat([rows[..., :4], best, rows[..., 4:] / best], -1)


def undecoded(found: Tensor) -> Tensor:
    """YOLOX's: offsets from the cell in strides, and logarithms of the sides."""
    rows, cells, steps = with_objectness(found), [], []
    for stride in (8, 16, 32):
        y, x = torch.meshgrid(torch.arange(SIZE // stride), torch.arange(SIZE // stride), indexing="ij")
        cells.append(torch.stack([x.flatten(), y.flatten()], 1))
        steps.append(torch.full((len(cells[-1]), 1), stride))
    step = torch.cat(steps)
    return torch.cat([rows[..., :2] / step - torch.cat(cells), (rows[..., 2:4] / step).log(), rows[..., 4:]], -1)


def end_to_end(found: Tensor) -> Tensor:
    scores, labels = found[:, 4:].max(1)
    best, which = scores.topk(60, 1)
    boxes = found[:, :4].transpose(1, 2).gather(1, which[..., None].expand(-1, -1, 4))
    corners = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
    return torch.cat([corners, best[..., None], labels.gather(1, which)[..., None].float()], -1)


def torchvision_parts(found: Tensor) -> tuple[Tensor, ...]:
    rows = end_to_end(found)[0]
    return rows[:, :4], rows[:, 5].long(), rows[:, 4]


def queries_softmax(found: Tensor) -> tuple[Tensor, Tensor]:
    scores = found[:, 4:].transpose(1, 2).clamp(1e-9, 1 - 1e-6)
    scores = scores / scores.sum(-1, keepdim=True).clamp(min=1)
    nothing = (1 - scores.sum(-1, keepdim=True)).clamp(min=1e-9)
    return torch.cat([scores, nothing], -1).log() + 3, found[:, :4].transpose(1, 2) / SIZE


def queries_sigmoid(found: Tensor) -> tuple[Tensor, Tensor]:
    return found[:, 4:].transpose(1, 2).clamp(1e-9, 1 - 1e-6).logit(), found[:, :4].transpose(1, 2) / SIZE


def from_bgr_255(images: Tensor) -> Tensor:
    return images.flip(1) / 255


def from_imagenet(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return images * std + mean


LAID_OUT = {
    "yolo": Exported(lambda found: found),
    "yolo_objectness": Exported(with_objectness),
    "yolox": Exported(undecoded, from_bgr_255),
    "end_to_end": Exported(end_to_end),
    "torchvision": Exported(torchvision_parts),
    "detr": Exported(queries_softmax, from_imagenet),
    "detr_sigmoid": Exported(queries_sigmoid),
}


def traced(module: nn.Module, file: Path) -> Path:
    with warnings.catch_warnings():  # of a tracer, about sizes that are fixed here
        warnings.simplefilter("ignore")
        torch.jit.trace(module, torch.rand(1, 3, SIZE, SIZE), strict=False, check_trace=False).save(str(file))
    return file


def to_onnx(module: nn.Module, file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.rand(1, 3, SIZE, SIZE),),
            str(file),
            dynamo=False,
            input_names=["images"],
            output_names=["output0"],
        )
    return file


def same(found: Detections, expected: Detections, tolerance: float = 1e-3) -> None:
    """The same boxes; what an export does not suppress is suppressed here."""
    found = found[nms(found.boxes, found.scores, 0.5)]
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.boxes, expected.boxes, atol=50 * tolerance, rtol=0)
    torch.testing.assert_close(found.scores, expected.scores, atol=tolerance, rtol=0)
    assert torch.equal(found.labels, expected.labels)


@pytest.fixture(scope="module")
def own() -> Detector:
    return detxai.wrap("scenes-yolo")


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    return to_onnx(LAID_OUT["yolo"], tmp_path_factory.mktemp("onnx") / "detector.onnx")


@pytest.mark.parametrize("layout", LAID_OUT)
def test_every_layout_is_recognised_and_read(layout: str, own: Detector) -> None:
    def run(images: Array) -> Mapping[str, Array]:
        with torch.no_grad():
            found = LAID_OUT[layout](torch.from_numpy(images))
        return {f"output{i}": one.numpy() for i, one in enumerate(found if isinstance(found, tuple) else [found])}

    file = ExportedFile(Path(layout), run, (1, 3, SIZE, SIZE))
    detector = ExportedAdapter(ExportedNetwork(file))
    for image in SCENES:
        same(detector.detect(image, 0.4), own.detect(image, 0.4))
    assert detector.describe()["layout"] == layout


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript(own: Detector, tmp_path: Path) -> None:
    detector = detxai.wrap(traced(LAID_OUT["yolo"], tmp_path / "detector.torchscript"), input_size=SIZE)
    same(detector.detect(SCENES[0], 0.4), own.detect(SCENES[0], 0.4))
    with pytest.raises(ValueError, match=r"fails on images \[1, 3, 97, 131\].*input_size= brings"):
        detxai.wrap(tmp_path / "detector.torchscript").detect(np.zeros((97, 131, 3), dtype=np.uint8))


def test_onnx_one_image_at_a_time(onnx_file: Path, own: Detector) -> None:
    detector = detxai.wrap(onnx_file, class_names=own.class_names)
    for image in SCENES:
        same(detector.detect(image, 0.4), own.detect(image, 0.4))
    together = detector.candidates(SCENES)  # three images through a file that takes one
    assert together.boxes.shape[0] == 3
    torch.testing.assert_close(together[2].class_scores, detector.candidates(SCENES[2]).class_scores)


@pytest.mark.skipif(os.environ.get("ONEDNN_MAX_CPU_ISA") == "SSE41", reason="OpenVINO needs what its processor has")
def test_openvino(onnx_file: Path, own: Detector, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    openvino.save_model(openvino.convert_model(str(onnx_file)), str(tmp_path / "detector.xml"), compress_to_fp16=False)
    same(detxai.wrap(tmp_path / "detector.xml").detect(SCENES[0], 0.4), own.detect(SCENES[0], 0.4))


def test_the_map_is_that_of_the_network(onnx_file: Path, own: Detector) -> None:
    """Masks reach the file as they reach the network: the boxes' slopes are the same."""
    found = own.detect(SCENES[0], 0.4)
    method = detxai.DRISE(n_masks=60, progress=False)
    (by_file,), (by_network,) = (method(one, SCENES[0], found) for one in (detxai.wrap(onnx_file), own))
    assert np.abs(by_file.values).max() > 0
    correlation = np.corrcoef(by_file.values.ravel(), by_network.values.ravel())[0, 1]
    assert correlation > 0.99  # pixels are whole numbers on their way into a file


@pytest.mark.parametrize(("height", "width"), [(160, 160), (97, 160), (333, 500), (500, 333), (31, 7), (640, 427)])
def test_the_centre_placement_is_ultralytics_own(height: int, width: int) -> None:
    from ultralytics.data.augment import LetterBox

    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    prepared, place = Preparation()(image, (SIZE, SIZE))
    expected = LetterBox((SIZE, SIZE), auto=False)(image=image)
    assert np.array_equal(np.rint(prepared.transpose(1, 2, 0) * 255), expected)
    box = torch.tensor([[0.0, 0.0, width, height]])
    assert torch.allclose(place.boxes_to_image(place.boxes_to_input(box)), box, atol=1e-3)


@pytest.mark.parametrize("placement", ["centre", "top left", "stretch"])
def test_a_planted_pixel_comes_back(placement: Any) -> None:
    """A white square on black, found again by its brightness in the input."""
    image = np.zeros((90, 120, 3), dtype=np.uint8)
    image[30:45, 60:90] = 255
    prepared, place = Preparation(placement, grey=0)(image, (SIZE, SIZE))
    rows, columns = np.nonzero(prepared[0] > 0.5)
    lit = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=torch.float32)
    torch.testing.assert_close(place.boxes_to_image(lit), torch.tensor([[60.0, 30.0, 90.0, 45.0]]), atol=1.0, rtol=0)


def test_yolox_on_a_real_photo(shared_data: Path) -> None:
    pytest.importorskip("onnxruntime")
    detector = detxai.wrap(shared_data / "yolox_nano_coco.onnx")
    photo = shared_data / "coco_dev" / "images" / "000000000139.jpg"
    found, by_yolo = (one.detect(photo, 0.5) for one in (detector, detxai.wrap(shared_data / "yolov8n_coco.pt")))
    assert detector.describe()["layout"] == "yolox"
    assert set(found.labels.tolist()) & set(by_yolo.labels.tolist())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_refusals(onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        detxai.wrap(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match=r"layout must be one of .*yolox.*, got 'yolo9000'"):
        detxai.wrap(onnx_file, layout="yolo9000")
    with pytest.raises(
        ValueError, match=r"input_size must be what .* was exported for, \(160, 160\), got \(320, 320\)"
    ):
        detxai.wrap(onnx_file, input_size=320)
    with pytest.raises(ValueError, match=r"must answer as layout 'detr'.*got output0 \[1, "):
        detxai.wrap(onnx_file, layout="detr").detect(SCENES[0])
    with pytest.raises(TypeError, match=r"detector.onnx is an exported model: it has no layers"):
        detxai.explain(detxai.wrap(onnx_file), SCENES[0], method="layer_cam")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(onnx_file.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"broken.onnx cannot be opened"):
        detxai.wrap(broken)
    classifier = traced(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 10)), tmp_path / "classifier.torchscript")
    with pytest.raises(ValueError, match=r"must answer in one layout .*got output0 \[1, 10\]; give layout="):
        detxai.wrap(classifier, input_size=SIZE).detect(SCENES[0])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"needs onnxruntime: pip install \"detxai\[onnx\]\""):
        detxai.wrap(onnx_file)
