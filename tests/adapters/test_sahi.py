"""SAHI's own slices, merging, sliced prediction and detection models, called by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sliced_detectors import photo

import detxai
from detxai import scenes
from detxai.adapters.black_boxes.sahi_model import SahiAdapter
from detxai.adapters.sliced import SlicedAdapter, Slicing
from detxai.adapters.sliced.merging import merged
from detxai.detections import Detections
from detxai.formats import from_sahi
from detxai.scenes.detectors.yolo import find_yolo_weights

pytest.importorskip("sahi")

from sahi import AutoDetectionModel
from sahi.postprocess.combine import GreedyNMMPostprocess, NMSPostprocess
from sahi.predict import get_prediction, get_sliced_prediction
from sahi.prediction import ObjectPrediction
from sahi.slicing import get_slice_bboxes

SETTINGS: Any = {"verbose": 0, "confidence_threshold": 0.25}


def rows(found: Detections) -> np.ndarray[Any, Any]:
    """(N, 6): corners, score and label, in an order of their own."""
    columns = [found.boxes.numpy(), found.scores.numpy()[:, None], found.labels.numpy()[:, None]]
    table = np.concatenate(columns, 1).astype(np.float64)
    return table[np.lexsort(table.round(2).T)]


def largest_difference(found: Detections, theirs: Any) -> float:
    expected = from_sahi(theirs)
    assert len(found) == len(expected) > 0
    return float(np.abs(rows(found) - rows(expected)).max())


@pytest.fixture(scope="module")
def collage() -> Any:
    """Four scenes beside each other, 320 x 320."""
    first, second, third, fourth = (scenes.generate(seed=seed).image for seed in (2, 3, 4, 6))
    return np.concatenate([np.concatenate([first, second], 1), np.concatenate([third, fourth], 1)])


@pytest.fixture(scope="module")
def yolo() -> Any:
    """The small YOLO of the scenes."""
    pytest.importorskip("ultralytics")
    if find_yolo_weights() is None:
        pytest.skip("the weights of the scenes' YOLO are not here")
    return scenes.load_yolo()


@pytest.fixture(scope="module")
def model(yolo: Any) -> Any:
    """The same, as SAHI's detection model."""
    return AutoDetectionModel.from_pretrained("ultralytics", model=yolo, confidence_threshold=0.3, device="cpu")


def sliced(inner: Any, *slices: Any, **more: Any) -> SlicedAdapter:
    detector = detxai.wrap(inner, slices=Slicing(*slices, **more))
    assert isinstance(detector, SlicedAdapter)
    return detector


@given(
    rows=st.integers(1, 7), columns=st.integers(1, 7), overlap=st.floats(0, 0.8),
    height=st.integers(30, 3000), width=st.integers(30, 3000),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_slices_are_sahis(rows: int, columns: int, overlap: float, height: int, width: int) -> None:
    try:
        windows = Slicing(rows, columns, overlap).windows((height, width)).tolist()
    except ValueError:  # then no height, or no width, of a slice gives SAHI so many
        counts = [
            {len(get_slice_bboxes(length, 9, side, 9, False, overlap, 0.0)) for side in range(1, length + 1)}
            for length in (height, width)
            if length < 300
        ]
        assert not counts or len(counts) < 2 or rows not in counts[0] or columns not in counts[1]
        return
    left, top, right, bottom = windows[0]
    assert windows == get_slice_bboxes(height, width, bottom - top, right - left, False, overlap, overlap)


@given(
    high=st.integers(1, 700), wide=st.integers(1, 700), overlap=st.floats(0, 0.8),
    height=st.integers(1, 600), width=st.integers(1, 600),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_slices_of_a_size_are_sahis(high: int, wide: int, overlap: float, height: int, width: int) -> None:
    assume(height * width < 40 * 40 * high * wide)  # SAHI makes them one by one
    windows = Slicing.of_size(high, wide, overlap).windows((height, width)).tolist()
    assert windows == get_slice_bboxes(height, width, high, wide, False, overlap, overlap)


@given(
    seed=st.integers(0, 10_000), metric=st.sampled_from(["ios", "iou"]), threshold=st.floats(0.05, 1),
    class_agnostic=st.booleans(), merge=st.sampled_from(["greedy_nmm", "nms"]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_boxes_are_merged_as_sahis(seed: int, metric: Any, threshold: float, class_agnostic: bool, merge: Any) -> None:
    generator = np.random.default_rng(seed)
    corners, sides = generator.uniform(0, 60, (25, 2)), generator.uniform(1, 50, (25, 2))
    boxes = np.concatenate([corners, corners + sides], 1).astype(np.float32)
    boxes[3] = boxes[4]
    scores, labels = generator.uniform(0, 1, 25).astype(np.float32), generator.integers(0, 3, 25)
    scores[7] = scores[8]
    kind = GreedyNMMPostprocess if merge == "greedy_nmm" else NMSPostprocess
    theirs = kind(match_threshold=threshold, match_metric=metric.upper(), class_agnostic=class_agnostic)(
        [
            ObjectPrediction(box.tolist(), int(label), str(label), score=float(score))
            for box, score, label in zip(boxes, scores, labels)
        ]
    )
    slicing = Slicing(1, 2, merge=merge, match_metric=metric, match_threshold=threshold, class_agnostic=class_agnostic)
    found = merged(Detections(boxes, torch.from_numpy(scores), torch.from_numpy(labels)), slicing)
    assert largest_difference(found, theirs) < 1e-5


@pytest.mark.parametrize(
    ("slices", "more", "theirs"),
    [
        ((2, 2, 0.2), {}, {}),
        ((2, 3, 0.33), {"whole_image": False}, {"perform_standard_pred": False}),
        (
            (2, 2, 0.3), {"merge": "nms", "match_metric": "iou", "match_threshold": 0.4},
            {"postprocess_type": "NMS", "postprocess_match_metric": "IOU", "postprocess_match_threshold": 0.4},
        ),
        ((2, 2, 0.3), {"class_agnostic": True}, {"postprocess_class_agnostic": True}),
    ],
)  # fmt: skip
def test_detections_are_those_of_get_sliced_prediction(
    slices: Any, more: Any, theirs: Any, yolo: Any, model: Any, collage: Any
) -> None:
    """On the network itself, and on SAHI's model of it."""
    image = collage[:301, :289]  # sides that nothing divides
    _, _, right, bottom = Slicing(*slices).windows(image.shape[:2])[0].tolist()
    expected = get_sliced_prediction(
        image, model, bottom, right, overlap_height_ratio=slices[2], overlap_width_ratio=slices[2], **SETTINGS, **theirs
    )
    for inner in (yolo, model) if more else (yolo,):
        detector = sliced(inner, *slices, **more)
        assert largest_difference(detector.detect(image, 0.25), expected) < 1e-3
    assert len(from_sahi(expected)) > 4


def test_below_a_threshold_of_a_tenth_sahi_switches_to_nms_and_so_do_we(yolo: Any, model: Any, collage: Any) -> None:
    expected = get_sliced_prediction(collage, model, 178, 178, verbose=0, confidence_threshold=0.06)
    detector = detxai.wrap(yolo, slices=Slicing.of_size(178, 178))
    assert largest_difference(detector.detect(collage, 0.06), expected) < 1e-3


def test_a_sahi_model_answers_as_get_prediction(model: Any, collage: Any) -> None:
    before = dict(vars(model))
    detector = detxai.wrap(model)
    assert isinstance(detector, SahiAdapter)
    assert (
        largest_difference(detector.detect(collage, 0.4), get_prediction(collage, model, confidence_threshold=0.4)) == 0
    )
    assert detector.class_names == dict(enumerate(scenes.CLASS_NAMES))
    assert detector.describe()["family"] == "sahi"
    low = detector.candidates(collage)
    assert 0.01 < float(low.objectness[low.objectness > 0].min()) < 0.1
    vars(model).update(before)  # what get_prediction itself leaves
    detector.candidates([collage, collage[:200]])
    assert dict(vars(model)) == before
    assert all(vars(model)[name] is value for name, value in before.items())


def test_images_of_several_sizes_answer_as_each_alone(model: Any, collage: Any) -> None:
    detector, images = detxai.wrap(model), [collage, collage[:200, :250], collage[100:]]
    together = detector.candidates(images)
    for place, image in enumerate(images):
        alone = detector.candidates(image)
        assert together.objectness[place].sum() == pytest.approx(float(alone.objectness.sum()))


def test_a_torchvision_model_of_sahis(collage: Any) -> None:
    """One without batches of its own, whose labels count the background."""
    network = scenes.load_frcnn()
    names = {str(label): name for label, name in enumerate(["background", *scenes.CLASS_NAMES])}
    model = AutoDetectionModel.from_pretrained(
        "torchvision", model=network, category_mapping=names, confidence_threshold=0.5, device="cpu"
    )
    found = sliced(model, 2, 2, 0.2).detect(collage, 0.5)
    own = sliced(scenes.load_frcnn(), 2, 2, 0.2).detect(collage, 0.5)
    assert np.abs(rows(found) - rows(own)).max() < 1e-3
    assert found.name(0) == names[str(int(found.labels[0]))]


def test_d_rise_of_a_sliced_sahi_model(model: Any, collage: Any) -> None:
    detector = sliced(model, 2, 2, 0.2, whole_image=False)
    found = from_sahi(get_sliced_prediction(collage, model, 178, 178, perform_standard_pred=False, **SETTINGS))
    alone = (found.boxes[:, 2:] < 142) | (found.boxes[:, :2] > 178)  # where no two slices overlap
    corner = found[alone.all(1)][:1]
    (explanation,) = detxai.explain(detector, collage, "d_rise", corner, n_masks=16)
    assert explanation.details["n_slices"] == 4
    assert explanation.details["slice_passes"] == 4 + 16
    assert explanation.details["clean_score"] > 0.25
    with pytest.raises(TypeError, match="a SAHI model, whose answers alone are known"):
        detxai.explain(detector, collage, "layer_cam", corner)


def test_an_exception_leaves_the_model_as_it_was(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "_extract_predictions", stop)
    detector, before = detxai.wrap(model), dict(vars(model))
    with pytest.raises(KeyboardInterrupt):
        detector.detect(photo())
    assert all(vars(model)[name] is value for name, value in before.items())


def test_results_of_sahi_as_detections(model: Any, collage: Any) -> None:
    result = get_sliced_prediction(collage, model, 178, 178, **SETTINGS)
    found = from_sahi(result)
    assert found.boxes.tolist() == [pytest.approx(one.bbox.to_xyxy()) for one in result.object_prediction_list]
    assert [found.name(place) for place in range(len(found))] == [
        one.category.name for one in result.object_prediction_list
    ]
    assert torch.equal(from_sahi(result.object_prediction_list).boxes, found.boxes)
    assert len(from_sahi([])) == 0
    moved = ObjectPrediction([1, 2, 3, 4], 0, "house", score=0.5, shift_amount=[10, 20], full_shape=[50, 50])
    assert from_sahi([moved]).boxes.tolist() == [[11, 22, 13, 24]]
    wrong: Any
    for wrong in (None, 3, "text", {"boxes": []}, [1]):
        with pytest.raises(TypeError, match="result must be a SAHI PredictionResult"):
            from_sahi(wrong)


def test_a_function_may_answer_with_sahis_results(model: Any, collage: Any) -> None:
    detector = detxai.wrap(lambda images: [get_sliced_prediction(one, model, 178, 178, **SETTINGS) for one in images])
    theirs = get_sliced_prediction(collage, model, 178, 178, **SETTINGS)
    assert largest_difference(detector.detect(collage, 0.25), theirs) < 1e-6


def test_a_model_without_its_weights_is_refused() -> None:
    empty = AutoDetectionModel.from_pretrained("ultralytics", model_path="none.pt", load_at_init=False, device="cpu")
    with pytest.raises(ValueError, match="holds no network yet; call its load_model"):
        detxai.wrap(empty)


@pytest.mark.slow
def test_a_trained_yolo_on_real_photos(shared_data: Path) -> None:
    pytest.importorskip("ultralytics")
    files = sorted((shared_data / "coco_dev" / "images").glob("*.jpg"))[:4]
    if len(files) < 4:
        pytest.skip("no photos of coco_dev")
    import PIL.Image

    photos = [np.asarray(PIL.Image.open(file).convert("RGB").resize((640, 640))) for file in files]
    image = np.concatenate([np.concatenate(photos[:2], 1), np.concatenate(photos[2:], 1)])
    weights = str(shared_data / "yolov8n_coco.pt")
    model = AutoDetectionModel.from_pretrained("ultralytics", model_path=weights, device="cpu")
    for slices in ((2, 2, 0.2), (3, 4, 0.33)):
        detector = detxai.wrap(weights, slices=slices)
        assert isinstance(detector, SlicedAdapter)
        _, _, right, bottom = detector.slicing.windows(image.shape[:2])[0].tolist()
        overlaps = {"overlap_height_ratio": slices[2], "overlap_width_ratio": slices[2]}
        theirs = get_sliced_prediction(image, model, bottom, right, **overlaps, **SETTINGS)
        assert largest_difference(detector.detect(image, 0.25), theirs) < 1e-3
