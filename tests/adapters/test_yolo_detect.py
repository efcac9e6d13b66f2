"""``detect`` equals ``YOLO.predict``, and candidates hold every detection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

pytest.importorskip("ultralytics")

from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.utils import ASSETS
from ultralytics.utils.ops import scale_boxes
from yolo_seeded import (
    DUAL,
    FAMILIES,
    SIZE,
    bus,
    differences,
    largest_gap,
    one_thread,  # noqa: F401  (a fixture that applies to every test here)
    predicted,
    seeded,
)

import detxai
from detxai.adapters.ultralytics.letterbox import boxes_to_images, letterbox
from detxai.adapters.ultralytics.yolo import YOLOAdapter

MODES = [(family, False) for family in FAMILIES] + [(family, True) for family in DUAL]


@pytest.mark.parametrize(("family", "end2end"), MODES)
def test_every_family_answers_as_predict_does(family: str, end2end: bool) -> None:
    yolo = seeded(family, end2end=end2end)
    adapter = YOLOAdapter(yolo)
    assert adapter.end2end == end2end
    found = adapter.detect(bus())
    assert len(found) >= 3, "a comparison of nothing says nothing"
    boxes, scores = differences(predicted(yolo, bus()), found)
    assert boxes <= 0.01
    assert scores <= 1e-4
    assert largest_gap(found, adapter.candidates(bus())) <= 0.01


def odd_images() -> dict[str, Callable[[], PIL.Image.Image]]:
    def noise(*shape: int) -> PIL.Image.Image:
        return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))

    def turned() -> PIL.Image.Image:
        image = bus()
        image.getexif()[0x0112] = 6
        return image

    return {
        "wide": lambda: bus(300, 90),
        "tall": lambda: bus(70, 310),
        "sides that round against the letterbox": lambda: bus(101, 83),
        "one pixel wide": lambda: noise(200, 1, 3),
        "one pixel high": lambda: noise(1, 200, 3),
        "tiny": lambda: noise(3, 2, 3),
        "a single pixel": lambda: noise(1, 1, 3),
        "large": lambda: bus(3000, 2000),
        "grey": lambda: bus().convert("L"),
        "grey and alpha": lambda: bus().convert("LA"),
        "transparent": lambda: PIL.Image.merge("RGBA", (*bus().split(), noise(200, 150))),
        "palette": lambda: bus().convert("P"),
        "cmyk": lambda: bus().convert("CMYK"),
        "bilevel": lambda: bus().convert("1"),
        "16 bit": lambda: PIL.Image.fromarray((np.asarray(bus().convert("L")).astype(np.uint16) << 8) + 77),
        "turned by EXIF": turned,
    }


@pytest.mark.parametrize("name", odd_images())
def test_odd_images_are_read_as_predict_reads_them(name: str) -> None:
    image, yolo = odd_images()[name](), seeded("v8")
    boxes, scores = differences(predicted(yolo, image), YOLOAdapter(yolo).detect(image))
    assert boxes <= 0.01
    assert scores <= 1e-4


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("grey", ".jpg"),
        ("transparent", ".png"),
        ("palette", ".png"),
        ("16 bit", ".png"),
        ("cmyk", ".tif"),
        ("wide", ".webp"),
        ("turned by EXIF", ".jpg"),
    ],
)
def test_files_are_read_as_predict_reads_them(name: str, suffix: str, tmp_path: Path) -> None:
    image, file, yolo = odd_images()[name](), tmp_path / f"photo{suffix}", seeded("v8")
    image.save(file, **({"exif": image.getexif()} if "EXIF" in name else {}))
    boxes, scores = differences(predicted(yolo, str(file)), YOLOAdapter(yolo).detect(file))
    assert boxes <= 0.01
    assert scores <= 1e-4


@pytest.mark.parametrize("shape", [(200, 150), (83, 101), (1, 200), (640, 480), (77, 1000), (160, 160)])
def test_the_prepared_tensor_is_ultralytics_own_bit_for_bit(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    yolo = seeded("v8")
    yolo.predict(image[..., ::-1], verbose=False)
    expected = yolo.predictor.preprocess([np.ascontiguousarray(image[..., ::-1])])
    inputs = YOLOAdapter(yolo).prepare(image)
    assert torch.equal(inputs.tensor, expected)
    as_float = YOLOAdapter(yolo).prepare(torch.from_numpy(image).permute(2, 0, 1) / 255)
    assert as_float.geometries == inputs.geometries
    assert float((as_float.tensor - expected).abs().max()) <= 1 / 255  # cv2 rounds uint8 to whole steps


def test_batches_of_several_shapes_share_the_square_as_in_ultralytics() -> None:
    yolo, images = seeded("v8"), [bus(), bus(300, 90)]
    yolo.predict(images, verbose=False)
    expected = yolo.predictor.preprocess([np.asarray(image)[..., ::-1] for image in images])
    inputs = YOLOAdapter(yolo).prepare(images)
    assert torch.equal(inputs.tensor, expected)
    together, alone = YOLOAdapter(yolo).candidates(inputs), YOLOAdapter(yolo).candidates(inputs.images[0])
    assert together.class_scores.shape[0] == 2
    assert together.class_scores.shape[1] == 20 * 20 + 10 * 10 + 5 * 5 > alone.class_scores.shape[1]


def test_boxes_go_back_as_scale_boxes_takes_them() -> None:
    random = np.random.default_rng(2)
    for _ in range(300):
        height, width = random.integers(1, 1200, 2).tolist()
        _, geometry = letterbox(np.zeros((height, width, 3), np.uint8), (SIZE, SIZE), 32, rectangle=True, stretch=False)
        assert LetterBox((SIZE, SIZE), auto=True, stride=32)(image=np.zeros((height, width, 3))).shape[:2] == (
            geometry.input_size
        )
        boxes = torch.rand(5, 4) * SIZE
        expected = scale_boxes(geometry.input_size, boxes.clone(), geometry.image_size)
        assert torch.allclose(boxes_to_images(boxes[None], [geometry])[0], expected, rtol=1e-5, atol=1e-3)


def test_settings_on_the_yolo_object_are_respected() -> None:
    yolo = seeded("v8")
    everything = YOLOAdapter(yolo).detect(bus())
    kept = dict(yolo.overrides)
    common = int(everything.labels.mode().values)
    try:
        for chosen in ({"iou": 0.2}, {"max_det": 4}, {"classes": [common]}, {"agnostic_nms": True}, {"imgsz": 96}):
            yolo.overrides = {**kept, **chosen}
            found = YOLOAdapter(yolo).detect(bus())
            assert len(found) != len(everything), chosen
            boxes, scores = differences(predicted(yolo, bus()), found)
            assert boxes <= 0.01, chosen
            assert scores <= 1e-4, chosen
    finally:
        yolo.overrides = kept


def test_the_input_size_can_be_chosen() -> None:
    yolo = seeded("v8")
    adapter = YOLOAdapter(yolo, input_size=(96, 130))
    assert adapter.input_size == (96, 160)
    result = yolo.predict(bus(), imgsz=(96, 160), verbose=False)[0].boxes
    assert len(adapter.detect(bus())) == len(result)


def test_a_bare_network_and_a_path_answer_as_the_yolo_object(shared_data: Path) -> None:
    file = shared_data / "yolov8n_coco.pt"
    yolo = YOLO(file)
    expected = predicted(yolo, str(ASSETS / "bus.jpg"))
    assert sorted({expected.name(i) for i in range(4)}) == ["bus", "person"]
    for adapter in (YOLOAdapter(yolo.model), detxai.wrap(file), detxai.wrap(str(file))):
        assert differences(expected, adapter.detect(ASSETS / "bus.jpg")) <= (0.01, 1e-4)


@pytest.mark.parametrize("n_images", [6, pytest.param(None, marks=pytest.mark.slow)])
def test_real_weights_on_real_photos(n_images: int | None, shared_data: Path) -> None:
    yolo = YOLO(shared_data / "yolov8n_coco.pt")
    adapter = YOLOAdapter(yolo)
    files = sorted((shared_data / "coco_dev").rglob("*.jpg"))
    assert files
    for file in files[:n_images]:
        found = adapter.detect(file)
        boxes, scores = differences(predicted(yolo, str(file)), found)
        assert boxes <= 0.01, file.name
        assert scores <= 1e-4, file.name
        if len(found):
            assert largest_gap(found, adapter.candidates(file)) <= 0.01, file.name
