"""FORGrad's filter is a plain FFT's, a setting of every gradient method, and "auto" what measuring says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from faster_rcnns import photo, small_faster_rcnn
from plain_hooks import OneStage

import detxai
from detxai.cli import main
from detxai.explain import make_method
from detxai.explanation import settings_of
from detxai.low_pass import low_pass
from detxai.low_passed import FILL, SIGMAS, STEPS
from detxai.metrics import Case, InsertionDeletion

MODEL = f"{Path(__file__).with_name('faster_rcnns.py')}:small_faster_rcnn"


def by_hand(values: np.ndarray[Any, Any], sigma: float) -> np.ndarray[Any, Any]:
    """Shifted to the centre and cut out with a disc, as Xplique does it, for a square map."""
    side = len(values)
    spectrum = np.fft.fftshift(np.fft.fft2(values))
    rows, columns = np.ogrid[:side, :side]
    disc = np.sqrt((rows - side // 2) ** 2 + (columns - side // 2) ** 2) <= sigma
    return np.asarray(np.fft.ifft2(np.fft.ifftshift(spectrum * disc)).real)


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("sigma", [1, 3, 5, 7.5])
def test_equals_a_plain_fft(side: int, sigma: float) -> None:
    values = np.random.default_rng(0).normal(size=(side, side))
    np.testing.assert_allclose(low_pass(values, sigma), by_hand(values, sigma), atol=1e-12)


@pytest.mark.parametrize("shape", [(12, 12), (9, 20), (21, 8)])
def test_a_wave_passes_up_to_its_own_frequency(shape: tuple[int, int]) -> None:
    height, width = shape
    side = max(shape)
    rows, columns = np.mgrid[:height, :width]
    for down, across in ((0, 2), (2, 0), (1, 2)):
        wave = 5 + np.cos(2 * np.pi * (down * rows / height + across * columns / width))
        frequency = side * np.hypot(down / height, across / width)
        np.testing.assert_allclose(low_pass(wave, frequency), wave, atol=1e-9)
        np.testing.assert_allclose(low_pass(wave, 0.99 * frequency), 5, atol=1e-9)


def test_nothing_at_0_and_everything_at_the_side() -> None:
    values = np.random.default_rng(1).normal(size=(2, 11, 16)).astype(np.float32)
    assert not low_pass(values, 0).any()
    np.testing.assert_array_equal(low_pass(values, 16), values)
    mean = np.broadcast_to(values.mean((1, 2), keepdims=True), values.shape)
    np.testing.assert_allclose(low_pass(values, 0.5), mean, atol=1e-6)


def test_a_batch_is_each_map_by_itself_and_filtering_again_changes_nothing() -> None:
    values = np.random.default_rng(2).normal(size=(2, 3, 10, 14)).astype(np.float32)
    filtered = low_pass(values, 4)
    assert filtered.shape == values.shape
    assert filtered.dtype == np.float32
    for place in np.ndindex(2, 3):
        np.testing.assert_allclose(filtered[place], low_pass(values[place], 4), atol=1e-6)
    np.testing.assert_allclose(low_pass(filtered, 4), filtered, atol=1e-5)


@pytest.mark.parametrize(
    ("sigma", "error"), [(-1, ValueError), (float("nan"), ValueError), ("15", TypeError), (True, TypeError)]
)
def test_bad_sigmas_are_refused(sigma: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="sigma must be a"):
        low_pass(np.zeros((4, 4)), sigma)
    with pytest.raises(error if sigma != "15" else ValueError, match="low_pass must be a"):
        make_method("layer_cam", low_pass=sigma)
    with pytest.raises(ValueError, match=r"values must have shape \(\.\.\., H, W\)"):
        low_pass(np.zeros(4), 1)


@pytest.fixture(scope="module")
def detector() -> Any:
    return detxai.wrap(small_faster_rcnn())


def test_an_explanation_tells_its_filter(detector: Any) -> None:
    found = detector.detect(photo(), 0.2)[:1]
    (plain,) = detxai.explain(detector, photo(), "layer_cam", found)
    (named,) = detxai.explain(detector, photo(), "layer_cam", found, low_pass=3)
    filtered = plain.low_pass(3)
    np.testing.assert_array_equal(named.values, filtered.values)
    np.testing.assert_array_equal(filtered.values, low_pass(plain.values, 3))
    assert filtered.settings == named.settings == {**plain.settings, "low_pass": 3}
    assert "low_pass" not in plain.settings
    assert filtered.low_pass(8).settings["low_pass"] == 3
    assert filtered.low_pass(2).settings["low_pass"] == 2
    assert settings_of(make_method("layer_cam", low_pass=3)) == named.settings


def test_only_methods_of_gradients_take_it() -> None:
    for name in ("d_rise", "eigen_cam", "ablation_cam"):
        with pytest.raises(ValueError, match=f"{name} has the settings .*got low_pass"):
            make_method(name, low_pass=15)
    assert make_method("layer_cam", low_pass=None) == make_method("layer_cam")


def test_auto_is_the_sigma_of_the_largest_insertion_less_deletion() -> None:
    case = OneStage()
    detector, image = case.wrap(case.model), case.image.float()
    found = detector.detect(image, 0.02)[:2]
    images: list[int] = []
    plain = detxai.explain(detector, image, "hires_cam", found)
    handle = case.model.model[0].register_forward_hook(lambda module, given, output: images.append(len(output)))
    try:
        chosen = detxai.explain(detector, image, "hires_cam", found, low_pass="auto")
        n_images = sum(images)
        images.clear()
        detxai.explain(detector, image, "hires_cam", found)
        n_plain = sum(images)
    finally:
        handle.remove()
    method: Any = make_method("hires_cam", low_pass="auto")
    assert method.most_passes(len(found)) == n_images - n_plain + 1
    measure = InsertionDeletion(steps=STEPS, fill=FILL)
    scores = {}
    for sigma in (None, *SIGMAS):
        filtered = [e if sigma is None else e.low_pass(sigma) for e in plain]
        maps = Case.from_explanations(detector, filtered, found, allow_cropped=True)
        scores[sigma] = float(measure(maps)["overall_normalised"].mean())
    best = max(scores, key=lambda sigma: scores[sigma])
    for explanation, before in zip(chosen, plain, strict=True):
        about = explanation.details["low_pass"]
        assert about["sigma"] == best
        assert list(about["overall_normalised"]) == ["unfiltered", *map(str, SIGMAS)]
        assert list(about["overall_normalised"].values()) == pytest.approx(list(scores.values()))
        expected = before.values if best is None else before.low_pass(best).values
        np.testing.assert_array_equal(explanation.values, expected)
        assert explanation.settings["low_pass"] == "auto"
        assert explanation.cost.forward_passes == before.cost.forward_passes + n_images - n_plain
        json.dumps(explanation.record())


def test_auto_keeps_the_map_of_a_box_that_is_not_there() -> None:
    """Nothing can be measured where the score is 0: no filter is as good as any, and the record is JSON."""
    case = OneStage()
    nowhere = detxai.Detections([[1, 1, 1, 1]], [0.5], [1])
    (explanation,) = detxai.explain(case.wrap(case.model), case.image.float(), "odam", nowhere, low_pass="auto")
    assert explanation.details["low_pass"]["sigma"] is None
    assert set(explanation.details["low_pass"]["overall_normalised"].values()) == {None}
    json.loads(json.dumps(explanation.record(), allow_nan=False))


def test_the_command_line_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    command = ["explain", str(tmp_path / "a.png"), "--model", MODEL, "--method", "grad_cam", "--score-threshold", "0.8"]
    command += ["--mode", "signed"]
    assert main([*command, "--out", str(tmp_path / "plain")]) == 0
    assert main([*command, "--out", str(tmp_path / "low"), "--set", "low_pass=5"]) == 0
    for file in (tmp_path / "plain" / "a").glob("*.npz"):
        filtered = np.load(tmp_path / "low" / "a" / file.name)["values"]
        np.testing.assert_allclose(filtered, low_pass(np.load(file)["values"], 5), atol=1e-6)
        record = json.loads((tmp_path / "low" / "a" / file.with_suffix(".json").name).read_text())
        assert record["settings"]["low_pass"] == 5
        assert "--mode signed" in record["request"]["redo"]
    assert main([*command, "--out", str(tmp_path / "bad"), "--set", "low_pass=-1"]) == 2
    assert "low_pass must be a finite number" in capsys.readouterr().err
