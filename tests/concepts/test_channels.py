"""What channels want to see, where it is known: linear filters, planted patches, receptive fields by theory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from black_boxes import sees, share
from filter_detectors import FilterDetector
from torch import Tensor, nn

import detxai
from detxai.adapters.network import require_network
from detxai.concepts.channels import (
    Channel,
    FeatureVisualisation,
    important_channels,
    receptive_field,
    strongest_examples,
)
from detxai.concepts.channels.examples import images_in
from detxai.concepts.channels.fourier_image import first_spectrum, image_from_spectrum, moved
from detxai.concepts.channels.important import most_detected_class
from detxai.concepts.channels.layer_pass import levels_of
from detxai.scenes import generate

STILL: dict[str, Any] = {"jitter": 0, "scale": 0, "rotation": 0, "progress": False}


def stripes_and_spot() -> FilterDetector:
    """Two filters of 16 x 16: diagonal stripes of red against blue, and a green spot."""
    down, across = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    stripes = torch.sin((down + across) * 2 * torch.pi / 8)
    spot = torch.exp(-((down - 7.5) ** 2 + (across - 7.5) ** 2) / 12)
    spot = spot - spot.mean()
    nothing = torch.zeros(16, 16)
    kernels = torch.stack([torch.stack([stripes, nothing, -stripes]), torch.stack([nothing, spot, nothing])])
    filters = nn.Conv2d(3, 2, 16, stride=16, bias=False)
    filters.weight = nn.Parameter(kernels / kernels.flatten(1).norm(dim=1)[:, None, None, None])
    return FilterDetector(filters, lambda out: out.mean((1, 2, 3)).sigmoid(), (2, 2, 30, 30))


def test_a_linear_filter_wants_to_see_its_own_kernel() -> None:
    detector = stripes_and_spot()
    channels = [Channel("filters", 0), Channel("filters", 1)]
    pictures = FeatureVisualisation(size=48, steps=60, place="centre", decorrelated=False, **STILL).of_channels(
        detector, channels, ["filters"]
    )
    model: Any = detector.model
    kernels = model.filters.weight
    alike = torch.zeros(2, 2)
    for row, picture in enumerate(pictures):
        middle = torch.from_numpy(picture.image[16:32, 16:32]).permute(2, 0, 1).float()
        middle = middle - middle.mean((1, 2), keepdim=True)
        for column, kernel in enumerate(kernels.detach()):
            alike[row, column] = torch.nn.functional.cosine_similarity(middle.flatten(), kernel.flatten(), dim=0)
    assert float(alike.diag().min()) > 0.75
    assert float(alike.fill_diagonal_(0).abs().max()) < 0.3
    assert all(picture.activation > 3 * abs(picture.before) for picture in pictures)


@pytest.mark.slow
def test_a_picture_of_a_class_is_detected_as_that_class() -> None:
    """The bundled detector reads the picture as its class, and the model is left as it was."""
    detector = require_network(detxai.wrap("scenes-frcnn"))
    label = next(label for label, name in detector.class_names.items() if name == "egg-striped")
    before = detector.fingerprint()
    (picture,) = FeatureVisualisation(size=96, steps=24, learning_rate=0.1, progress=False).of_classes(
        detector, [label]
    )
    assert picture.activation > 0.5 > picture.before
    assert detector.fingerprint() == before
    assert all(parameter.grad is None for parameter in detector.model.parameters())


def test_pictures_are_the_same_with_the_same_seed() -> None:
    detector = stripes_and_spot()
    pictures = [
        FeatureVisualisation(size=32, steps=3, seed=seed, progress=False).of_channels(
            detector, [Channel("filters", 0)], ["filters"]
        )[0]
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(pictures[0].image, pictures[1].image)
    assert not np.array_equal(pictures[0].image, pictures[2].image)


def test_equal_coefficients_give_low_frequencies_more_weight() -> None:
    spectrum = torch.zeros(2, 3, 32, 17, 2)
    spectrum[0, :, 0, 1, 0], spectrum[1, :, 0, 8, 0] = 0.1, 0.1
    slow, fast = image_from_spectrum(spectrum, 32, decorrelated=False).logit()
    assert float(slow.std() / fast.std()) == pytest.approx(8, rel=1e-3)


def test_a_spectrum_of_noise_is_all_but_grey() -> None:
    images = image_from_spectrum(first_spectrum(2, 32, torch.Generator().manual_seed(0)), 32)
    assert images.shape == (2, 3, 32, 32)
    assert float((images - 0.5).abs().max()) < 0.2


def test_movements_of_size_zero_change_nothing() -> None:
    images = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    dice = torch.Generator().manual_seed(0)
    torch.testing.assert_close(moved(images, dice, jitter=0, scale=0, rotation=0), images, atol=1e-5, rtol=1e-5)
    shifted = moved(images, dice, jitter=0.2, scale=0, rotation=0)
    assert not torch.allclose(shifted, images, atol=1e-3)


class Stack(nn.Module):
    """Convolutions of positive weights: every pixel that theory counts has a gradient."""

    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.parts = nn.Sequential(
            *(nn.Conv2d(3 if i == 0 else 1, 1, kernel, stride, bias=False) for i, (kernel, stride) in enumerate(shapes))
        )
        for part in self.parts:
            nn.init.constant_(part.weight, 0.1)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.parts(images)
        return found


@pytest.mark.parametrize("shapes", [[(3, 1)], [(3, 2), (3, 1)], [(5, 2), (3, 2), (3, 1)]])
def test_the_gradients_extent_is_the_receptive_field_of_theory(shapes: list[tuple[int, int]]) -> None:
    detector = FilterDetector(Stack(shapes), lambda out: out.mean((1, 2, 3)).sigmoid(), (2, 2, 30, 30))  # type: ignore[arg-type]
    size, jump = 1, 1
    for kernel, stride in shapes:
        size, jump = size + (kernel - 1) * jump, jump * stride
    inputs = detector.prepare(np.full((64, 80, 3), 128, dtype=np.uint8))
    found = receptive_field(detector, inputs, ["filters"], Channel("filters", 0), (4, 6))
    assert found is not None
    assert found.extent == (6 * jump, 4 * jump, 6 * jump + size, 4 * jump + size)
    inner = torch.tensor(found.box) - torch.tensor(found.extent)
    assert bool((inner[:2] >= 0).all())
    assert bool((inner[2:] <= 0).all())


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Five grey images; the green spot is in the third and, fainter, in the second; one file is no image."""
    model: Any = stripes_and_spot().model
    kernel = model.filters.weight
    spot = kernel[1].detach().permute(1, 2, 0).numpy()
    for number in range(5):
        image = np.full((48, 64, 3), 128.0)
        strength = {2: 120, 1: 60}.get(number, 0)
        image[16:32, 48:64] += strength * spot / np.abs(spot).max()
        PIL.Image.fromarray(image.round().clip(0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    return tmp_path


def test_the_strongest_example_is_where_it_was_planted(planted: Path) -> None:
    detector = stripes_and_spot()
    channel = Channel("filters", 1)
    found = strongest_examples(detector, images_in(planted), [channel], ["filters"], n=2, progress=False)
    first, second = found.by_channel[channel]
    assert (first.file_name, second.file_name) == ("2.png", "1.png")
    assert first.value > second.value
    assert first.cell == (1, 3)
    assert 48 <= first.centre[0] <= 64
    assert 16 <= first.centre[1] <= 32
    assert first.field is not None
    assert first.field.extent == (48, 16, 64, 32)
    assert list(found.failures) == ["broken.png"]
    assert found.n_images == 5


def test_the_channels_that_matter_are_those_that_the_score_reads(tmp_path: Path) -> None:
    filters = nn.Conv2d(3, 4, 1)
    filters.weight, filters.bias = nn.Parameter(torch.zeros(4, 3, 1, 1)), nn.Parameter(torch.ones(4))
    detector = FilterDetector(filters, lambda out: 0.5 * out[:, 2, 0, 0] + 0.3 * out[:, 0, 0, 0], (2, 2, 10, 10))
    PIL.Image.new("RGB", (12, 12)).save(tmp_path / "a.png")
    files = images_in(tmp_path)
    assert most_detected_class(detector, files) == 0
    found = important_channels(detector, files, 0, progress=False)
    assert [(each.channel.number, round(each.effect, 3)) for each in found.effects[:2]] == [(2, 0.625), (0, 0.375)]
    assert [each.effect for each in found.effects[2:]] == [0, 0]
    with pytest.raises(ValueError, match="no rest in 1 images"):
        important_channels(detector, files, 1, score_threshold=0.9, progress=False)


def test_a_pass_up_to_a_layer_gives_its_features_and_runs_nothing_behind_it() -> None:
    detector = require_network(detxai.wrap("scenes-frcnn"))
    image = generate(3, "local").image
    inputs = detector.prepare(image)
    features = detector.features(image)
    runs: list[int] = []
    handle = detector.model.roi_heads.register_forward_hook(lambda *_: runs.append(1))  # type: ignore[union-attr]
    try:
        with torch.no_grad():
            levels = levels_of(detector, inputs, list(detector.default_layers))
    finally:
        handle.remove()
    assert not runs
    for name, level in features.levels.items():
        torch.testing.assert_close(levels[name], level)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    detector = stripes_and_spot()
    visualise = FeatureVisualisation(size=32, steps=1, progress=False)
    with pytest.raises(LookupError, match="filters has channels 0 to 1, got 2"):
        visualise.of_channels(detector, [Channel("filters", 2)], ["filters"])
    with pytest.raises(LookupError, match="the level must be one of"):
        visualise.of_channels(detector, [Channel("neck", 0)], ["filters"])
    with pytest.raises(LookupError, match="layer 'backbone'"):
        visualise.of_channels(detector, [Channel("filters", 0)], ["backbone"])
    with pytest.raises(ValueError, match="labels must be some of"):
        visualise.of_classes(detector, [7])
    with pytest.raises(ValueError, match="LEVEL:NUMBER"):
        Channel.from_text("model.15")
    with pytest.raises(ValueError, match="steps must be"):
        FeatureVisualisation(steps=0)
    with pytest.raises(ValueError, match="place must be one of"):
        FeatureVisualisation(place="left")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must hold images"):
        images_in(tmp_path)
    with pytest.raises(TypeError, match="no layers"):
        visualise.of_classes(sees(share(0, 0, 4, 4)), [0])
