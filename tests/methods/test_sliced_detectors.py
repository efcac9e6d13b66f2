"""Explanations of a detector on slices: by black-box methods of all, by those that need layers of the best one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from sliced_detectors import Spots, detections_by_hand, one_stage, photo, with_spots
from torch import Tensor

import detxai
from detxai.adapters.network import module_of
from detxai.adapters.sliced import SlicedAdapter, Slicing
from detxai.cli import main
from detxai.detections import Detections
from detxai.explanation import Explanation
from detxai.methods import METHODS
from detxai.targets import ClassScoreTarget, score_targets

IMAGE = with_spots((4, 4, 10, 10, 0), (38, 58, 14, 14, 1))
FEW: dict[str, dict[str, Any]] = {
    "pixel_evidence": {"max_passes": 116},
    "region_shapley": {"max_passes": 64, "fill": "black"},
    "d_rise": {"n_masks": 24},
    "occlusion": {"window": 10, "stride": 10},
}


def sliced(inner: Any, *slices: Any, **more: Any) -> SlicedAdapter:
    detector = detxai.wrap(inner, slices=Slicing(*slices, **more))
    assert isinstance(detector, SlicedAdapter)
    return detector


@pytest.mark.parametrize(("method", "whole_image"), [(method, method == "pixel_evidence") for method in FEW])
def test_maps_are_those_of_all_slices_asked_every_time(method: str, whole_image: bool) -> None:
    """A plain function that cuts every image by hand and asks all slices gives the same maps, for more passes."""
    if method == "occlusion":
        pytest.importorskip("captum")
    inner, asked_every_time = Spots(), Spots()
    detector = sliced(inner, 2, 2, 0.1, whole_image=whole_image)
    by_hand = sliced(asked_every_time, 2, 2, 0.1, whole_image=whole_image)
    found = detector.detect(IMAGE, 0.5)
    assert sorted(found.labels.tolist()) == [0, 1]
    inner.sizes.clear()
    explanations = detxai.explain(detector, IMAGE, method, found, **FEW[method])
    everything = detxai.wrap(lambda images: [detections_by_hand(by_hand, image) for image in images])
    expected = detxai.explain(everything, IMAGE, method, found, **FEW[method])
    for one, other in zip(explanations, expected, strict=True):
        assert np.abs(other.values).max() > 0
        assert np.allclose(one.values, other.values, atol=1e-6 * np.abs(other.values).max())
        assert one.details["n_slices"] == 4 + whole_image
        assert one.details["slice_passes"] == len(inner.sizes) == one.cost.forward_passes
        json.dumps(one.record())
    assert len(inner.sizes) < 0.7 * len(asked_every_time.sizes)


def test_d_rise_costs_every_slice_once_and_one_slice_a_view() -> None:
    """A spot far from any border, and masks that all change its slice: as many passes as without slices, and four."""
    detector = sliced(Spots(), 2, 2, 0.0, whole_image=False)
    found = detector.detect(IMAGE, 0.5)
    (explanation,) = detxai.explain(detector, IMAGE, "d_rise", found[found.labels == 1], n_masks=40)
    assert explanation.cost.forward_passes == 4 + 40


# methods that need the network: on the slice that holds the box best


@pytest.fixture(scope="module")
def detector() -> SlicedAdapter:
    return sliced(one_stage(), 2, 2, 0.25, whole_image=False)


@pytest.fixture(scope="module")
def found(detector: SlicedAdapter) -> Detections:
    """Two boxes, found in different slices."""
    found = detector.detect(photo(2), 0.05)
    first = best_window(detector, found.boxes[0], int(found.labels[0]))
    others = (i for i in range(1, len(found)) if best_window(detector, found.boxes[i], int(found.labels[i])) != first)
    return found[[0, next(others)]]


def best_window(detector: SlicedAdapter, box: Tensor, label: int) -> list[int]:
    """The corners of the slice whose candidates answer best for the box, each cut and asked by hand."""
    scores = []
    windows = detector.slicing.windows(photo().shape[:2]).tolist()
    for left, top, right, bottom in windows:
        with torch.no_grad():
            own = detector.inner.candidates(np.ascontiguousarray(photo(2)[top:bottom, left:right]))
        moved = box - torch.tensor([left, top, left, top])
        inside = (moved[0] < right - left) & (moved[1] < bottom - top) & (moved[2:] > 0).all()
        scores.append(float(score_targets([ClassScoreTarget(moved, label)], own)[0, 0]) if inside else -1)
    best: list[int] = windows[int(np.argmax(scores))]
    return best


@pytest.mark.parametrize("method", ["layer_cam", "odam", "saliency", "ablation_cam"])
def test_cams_are_their_own_on_the_best_slice_and_nothing_around_it(
    method: str, detector: SlicedAdapter, found: Detections
) -> None:
    if method == "saliency":
        pytest.importorskip("captum")
    image = photo(2)
    explanations = detxai.explain(detector, image, method, found)
    seen = set()
    for explanation, detection in zip(explanations, found, strict=True):
        window = best_window(detector, detection.boxes[0], int(detection.labels[0]))
        assert explanation.details["slice"] == window
        left, top, right, bottom = window
        seen.add((left, top))
        cut = np.ascontiguousarray(image[top:bottom, left:right])
        moved = Detections(detection.boxes - torch.tensor([left, top, left, top]), detection.scores, detection.labels)
        (alone,) = METHODS[method]()(detector.inner, cut, moved)
        assert np.allclose(explanation.values[top:bottom, left:right], alone.values, atol=1e-6)
        outside = explanation.values.copy()
        outside[top:bottom, left:right] = 0
        assert not outside.any()
        assert explanation.model["slices"]["rows"] == 2
        assert explanation.image.shape == image.shape
        assert torch.equal(explanation.detection.boxes, detection.boxes)  # type: ignore[union-attr]
    assert len(seen) > 1


def test_the_default_method_starts_from_layer_cam_of_the_best_slice(detector: SlicedAdapter, found: Detections) -> None:
    (explanation,) = detxai.explain(detector, photo(2), detections=found[:1], max_passes=10)
    assert explanation.details["start"] == ["box_centre", "layer_cam"]
    assert explanation.cost.forward_passes > explanation.details["slice_passes"]


def test_a_box_that_no_slice_finds_is_explained_where_most_of_it_is_seen(detector: SlicedAdapter) -> None:
    """Nothing is found in a black image's slices; most of the box lies in the lower right one."""
    black = np.zeros_like(photo())
    unseen = Detections([[40, 30, 92, 69]], [0.5], [2])
    (explanation,) = detxai.explain(detector, black, "layer_cam", unseen)
    assert explanation.details["slice"][2:] == [93, 70]


def test_cams_of_a_black_box_in_slices_are_refused_as_without() -> None:
    detector = sliced(Spots(), 2, 2)
    with pytest.raises(TypeError, match="is a plain function: it has no layers"):
        detxai.explain(detector, IMAGE, "layer_cam", Detections([[3, 3, 15, 15]], [0.9], [0]))


def test_no_boxes_no_explanations(detector: SlicedAdapter) -> None:
    for method in ("layer_cam", "pixel_evidence", "d_rise"):
        assert detxai.explain(detector, photo(2), method, Detections([], [], [])) == []


def test_ctrl_c_keeps_the_model_as_it_was_and_the_map_so_far() -> None:
    inner = one_stage()
    module_of(inner).train()
    detector = sliced(inner, 2, 2)
    found = detector.detect(photo(2), 0.1)[:1]
    calls = 0

    def stop(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt

    with module_of(inner).backbone.register_forward_pre_hook(stop):  # type: ignore[union-attr]
        (explanation,) = detxai.explain(
            detector, photo(2), "d_rise", found, n_masks=48, batch_size=16, keep_partial=True
        )
    assert explanation.partial
    assert explanation.details["n_masks"] < 48
    assert all(module.training for module in module_of(inner).modules())


# the command line


def test_explain_takes_slices_and_tells_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PIL.Image.fromarray(IMAGE).save(tmp_path / "spots.png")
    (tmp_path / "spots.py").write_text(
        "from sliced_detectors import Spots\n\n\ndef build():\n    return Spots()\n", encoding="utf-8"
    )
    command = ["explain", str(tmp_path / "spots.png"), "--model", f"{tmp_path / 'spots.py'}:build"]
    command += ["--method", "d_rise", "--set", "n_masks=16", "--out", str(tmp_path / "out")]
    assert main([*command, "--slices", "2,2,0.25", "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert image["model"]["slices"]["overlap"] == 0.25
    assert image["request"]["slices"] == "2,2,0.25"
    assert "--slices 2,2,0.25" in " ".join(image["request"]["command"])
    assert len(image["detections"]) == 2


@pytest.mark.parametrize("slices", ["2,2", "2x2,0.2", "0,2,0.2", "2,2,1", "", "2,2,nan"])
def test_bad_slices_are_a_line(slices: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explain", "photo.jpg", "--model", "scenes-frcnn", "--out", "out", "--slices", slices])
    assert "--slices: expected ROWS,COLUMNS,OVERLAP such as 2,3,0.2" in capsys.readouterr().err


def test_explanations_of_slices_can_be_drawn(tmp_path: Path, detector: SlicedAdapter, found: Detections) -> None:
    explanation: Explanation
    (explanation,) = detxai.explain(detector, photo(2), "layer_cam", found[:1])
    with PIL.Image.open(explanation.save(tmp_path / "overlay.png")) as overlay:
        assert min(overlay.size) > 50
