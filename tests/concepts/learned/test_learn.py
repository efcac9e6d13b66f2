"""Training an explainer: a known answer, a killed run, another detector, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import detxai
from detxai.adapters.detector import Detector
from detxai.cli import main
from detxai.concepts.learned.answers import ImageAnswers
from detxai.concepts.learned.images import TrainingImage, folder_images, scene_images
from detxai.concepts.learned.learn import Learnt, learn_explainer
from detxai.concepts.learned.objectives import evidence_loss
from detxai.concepts.learned.settings import LearnSettings
from detxai.detections import Detections
from detxai.methods.learned.l2x import L2X

SIZE, BOX, PATCH = (48, 64), [6.0, 4.0, 58.0, 44.0], 10
Pixels = npt.NDArray[np.uint8]


def red_share(image: Pixels) -> float:
    """How much of a patch's pixels are red: the score of the box, a sum over pixels."""
    red = (image[..., 0] > 200) & (image[..., 1] < 50)
    return min(1.0, float(red.sum()) / PATCH**2)


def red_detector() -> Detector:
    """Finds one box, always the same, with the share of red as its score: a black box."""

    def detect(images: list[Pixels]) -> list[Detections]:
        return [Detections([BOX], [red_share(image)], [0]) for image in images]

    return detxai.wrap(detect, class_names=["red"])


def picture(seed: int) -> tuple[Pixels, tuple[int, int]]:
    """Grey noise with one red patch inside the box, and the patch's top left corner."""
    dice = np.random.default_rng(seed)
    image = dice.integers(90, 160, (*SIZE, 3), dtype=np.uint8)
    top, left = int(dice.integers(5, 43 - PATCH)), int(dice.integers(7, 57 - PATCH))
    image[top : top + PATCH, left : left + PATCH] = (230, 20, 20)
    return image, (top, left)


def pictures(n: int, first: int = 0) -> list[TrainingImage]:
    return [TrainingImage(f"red-{seed}", lambda seed=seed: picture(seed)[0]) for seed in range(first, first + n)]  # type: ignore[misc]


TINY = LearnSettings(label_passes=120, steps=6, batch_size=2, width=16, checkpoint_every=2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    return learn_explainer(red_detector(), pictures(9), tmp_path_factory.mktemp("tiny") / "run", TINY, progress=False)


def share_on_patch(path: Path, seeds: range) -> float:
    """The mean share of the map's positive sum that lies on the patch and a pixel around it."""
    shares = []
    for seed in seeds:
        image, (top, left) = picture(seed)
        detector = red_detector()
        (found,) = L2X(str(path))(detector, image, detector.detect(image))
        positive = np.maximum(found.values, 0)
        inside = positive[max(top - 1, 0) : top + PATCH + 1, max(left - 1, 0) : left + PATCH + 1].sum()
        shares.append(float(inside / positive.sum()))
    return float(np.mean(shares))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "more"),
    [("evidence", {"steps": 150}), ("shapley", {"steps": 150}), ("choice", {"steps": 250, "k": 6, "draws": 8})],
)
def test_it_learns_the_only_evidence_there_is(objective: Any, more: dict[str, Any], tmp_path: Path) -> None:
    """The score is a sum over the red pixels, so that the evidence and their Shapley values are all of it, and the
    regions that hold them the best choice. A patch is a twentieth of the box."""
    settings = LearnSettings(objective=objective, n_subsets=8, batch_size=4, width=16, **more)
    learnt = learn_explainer(red_detector(), pictures(60), tmp_path / "run", settings, progress=False)
    share = share_on_patch(learnt.path, range(1000, 1010))
    chance = (PATCH + 2) ** 2 / (SIZE[0] * SIZE[1])
    assert share > 8 * chance, share


def test_a_training_that_was_killed_goes_on_to_the_same_bytes(tiny: Learnt, tmp_path: Path) -> None:
    seen = 0

    def killed_after_four(done: int, total: int, doing: str) -> None:
        nonlocal seen
        seen += doing == "training" and done == 4
        if seen == 1:
            raise KeyboardInterrupt

    from detxai.progress import following

    with following(killed_after_four), pytest.raises(KeyboardInterrupt):
        learn_explainer(red_detector(), pictures(9), tmp_path / "run", TINY, progress=False)
    assert not (tmp_path / "run" / "explainer.safetensors").exists()
    assert (tmp_path / "run" / "parts" / "checkpoint.pt").is_file()
    again = learn_explainer(red_detector(), pictures(9), tmp_path / "run", TINY, progress=False)
    assert weights(again.path).keys() == weights(tiny.path).keys()
    for name, value in weights(tiny.path).items():
        assert value.equal(weights(again.path)[name]), name


def weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_what_is_finished_is_not_done_again_and_another_request_is_refused(tiny: Learnt) -> None:
    before = tiny.path.stat().st_mtime_ns
    learn_explainer(red_detector(), pictures(9), tiny.path.parent, TINY, progress=False)
    assert tiny.path.stat().st_mtime_ns == before
    other = LearnSettings(label_passes=120, steps=7, batch_size=2, width=16, checkpoint_every=2)
    with pytest.raises(ValueError, match="holds another training of an explainer"):
        learn_explainer(red_detector(), pictures(9), tiny.path.parent, other, progress=False)


def test_the_card_says_for_which_detector_and_another_is_refused_by_name(tiny: Learnt) -> None:
    card = json.loads((tiny.path.parent / "explainer.json").read_text(encoding="utf-8"))
    assert card["class_names"] == {"0": "red"}
    assert card["objective"] == "evidence"
    assert (card["n_images"], card["n_boxes"]) == (9, 9)
    assert not {name for name in card if name.startswith("held_out")}  # a tenth of nine images is none
    image, _ = picture(0)
    other = detxai.wrap(lambda images: [Detections([BOX], [0.9], [0]) for _ in images], class_names=["blue"])
    with pytest.raises(ValueError, match=r"explainer was trained for .* they differ in"):
        L2X(str(tiny.path))(other, image, other.detect(image))


def test_a_map_has_the_images_size_and_costs_no_view(tiny: Learnt) -> None:
    detector = red_detector()
    image, _ = picture(3)
    (found,) = detxai.explain(detector, image, "l2x", explainer=str(tiny.path))
    assert found.values.shape == SIZE
    assert found.cost.forward_passes == 0
    assert found.values.min() >= 0
    assert np.isclose(found.values.sum(), detector.detect(image).scores[0], rtol=0.05)  # the score, shared out
    assert found.details["objective"] == "evidence"
    (again,) = detxai.explain(detector, image, "l2x", explainer=str(tiny.path))
    assert np.array_equal(found.values, again.values)
    assert detxai.explain(detector, image, "l2x", detector.detect(image)[:0], explainer=str(tiny.path)) == []


def test_an_image_that_cannot_be_read_is_recorded_and_skipped(tmp_path: Path) -> None:
    def broken() -> Pixels:
        raise ValueError("image: no picture")

    images = [TrainingImage("broken.png", broken), *pictures(9)]
    learnt = learn_explainer(red_detector(), images, tmp_path / "run", TINY, progress=False)
    assert [one["image"] for one in learnt.failures] == ["broken.png"]
    assert learnt.card["n_images"] == 9


def test_bad_input_is_refused_before_any_work(tmp_path: Path) -> None:
    detector = red_detector()
    with pytest.raises(ValueError, match="images must not be empty"):
        learn_explainer(detector, [], tmp_path / "run")
    with pytest.raises(ValueError, match="at least 8 boxes"):
        learn_explainer(detector, pictures(3), tmp_path / "few", TINY, progress=False)
    for wrong, message in (
        ({"objective": "best"}, "objective must be one of"),
        ({"width": 24}, "width must be a multiple of 16"),
        ({"gradient": "scores", "draws": 1}, "draws must be at least 2"),
        ({"held_out": 1.0}, r"held_out must lie in \[0, 1\)"),
        ({"steps": 0}, "steps must be a whole number from 1"),
    ):
        with pytest.raises(ValueError, match=message):
            LearnSettings(**wrong)
    with pytest.raises(ValueError, match="has no gradients"):
        learn_explainer(detector, pictures(9), tmp_path / "run", LearnSettings(gradient="through"))
    with pytest.raises(ValueError, match="layers must be empty"):
        learn_explainer(detector, pictures(9), tmp_path / "run", LearnSettings(layers=["backbone"]))
    assert not (tmp_path / "run").exists()


def answers_with(evidence: torch.Tensor) -> ImageAnswers:
    """About one box, of which only the evidence matters."""
    nothing = np.zeros((1, 0), np.float32)
    return ImageAnswers(
        np.array([BOX], np.float32), np.array([0]), np.ones(1, np.float32), nothing, nothing, nothing, nothing,
        evidence.numpy(),
    )  # fmt: skip


def test_the_evidence_loss_is_least_at_the_mean_of_noisy_maps() -> None:
    """Zero where the chances are the shares themselves, whatever their scale; over several maps of one box, the
    gradient vanishes at the mean of their shares and nowhere near it."""
    dice = torch.Generator().manual_seed(0)
    counted = torch.rand(1, 2, 24, 24, generator=dice).clamp(min=0.1)
    maps = torch.rand(3, 1, 2, 24, 24, generator=dice) * torch.tensor([0.1, 1.0, 7.0]).view(3, 1, 1, 1, 1)
    shares = maps / maps.sum((1, 2, 3, 4), keepdim=True)
    of_maps = [answers_with(one) for one in maps]
    for one, share in zip(of_maps, shares, strict=True):
        assert evidence_loss((share / counted).log(), counted, [one]).abs().max() < 1e-5
        assert evidence_loss((shares.mean(0) / counted).log(), counted, [one]).min() > 1e-3

    def slope(at: torch.Tensor) -> float:
        logits = at.log().requires_grad_()
        chances = logits.flatten(1).log_softmax(1).view_as(logits)
        torch.cat([evidence_loss(chances - counted.log(), counted, [one]) for one in of_maps]).sum().backward()
        assert logits.grad is not None
        return float(logits.grad.abs().max())

    assert slope(shares.mean(0)) < 1e-6
    assert slope(shares[0]) > 1e-4


def test_an_image_without_evidence_counts_nothing() -> None:
    loss = evidence_loss(torch.zeros(1, 2, 24, 24), torch.ones(1, 2, 24, 24), [answers_with(torch.zeros(1, 2, 24, 24))])
    assert loss.tolist() == [0.0]


def test_the_card_has_the_divergence_on_held_out_images(tmp_path: Path) -> None:
    settings = replace(TINY, held_out=0.3)
    learnt = learn_explainer(red_detector(), pictures(9), tmp_path / "run", settings, progress=False)
    assert learnt.card["n_held_out_images"] == 2
    assert 0 < learnt.card["held_out_divergence"] < 5
    assert 0 < learnt.card["held_out_divergence_of_prior"] < 5


def test_files_that_are_no_explainer_are_refused(tmp_path: Path) -> None:
    detector = red_detector()
    image, _ = picture(0)
    found = detector.detect(image)
    with pytest.raises(ValueError, match="explainer must be the file"):
        detxai.explain(detector, image, "l2x", found)
    with pytest.raises(FileNotFoundError, match="explainer: no such file"):
        L2X(str(tmp_path / "none.safetensors"))(detector, image, found)
    (tmp_path / "text.safetensors").write_text("no", encoding="utf-8")
    with pytest.raises(ValueError, match="is no safetensors file"):
        L2X(str(tmp_path / "text.safetensors"))(detector, image, found)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no explainer"):
        L2X(str(tmp_path / "other.safetensors"))(detector, image, found)


def test_folders_and_scenes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="images: no such folder"):
        folder_images(tmp_path / "none")
    with pytest.raises(ValueError, match="must hold images"):
        folder_images(tmp_path)
    import PIL.Image

    PIL.Image.fromarray(picture(0)[0]).save(tmp_path / "a.png")
    (one,) = folder_images(tmp_path)
    assert one.name == "a.png"
    assert np.array_equal(one.load(), picture(0)[0])
    assert [image.name for image in scene_images(2)] == ["scene-20000", "scene-20001"]
    with pytest.raises(ValueError, match="at least 1"):
        scene_images(0)


SHORT = {
    "steps": 2,
    "n_subsets": 1,
    "label_passes": 20,
    "batch_size": 1,
    "max_boxes": 4,
    "draws": 1,
    "score_threshold": 0.01,
    "held_out": 0,
}


@pytest.mark.parametrize("objective", ["evidence", "shapley", pytest.param("choice", marks=pytest.mark.slow)])
def test_from_the_command_line_to_a_map(objective: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a network, whose features are read and through which the choice is differentiated."""
    words = [
        "concepts", "learn", "--model", "scenes-yolo", "--scenes", "5", "--out", str(tmp_path / "learnt"), "--json",
    ]  # fmt: skip
    settings = [word for name, value in SHORT.items() for word in ("--set", f"{name}={value}")]
    assert main([*words, "--objective", objective, *settings]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["card"]["layers"]
    assert summary["card"]["objective"] == objective
    detector = detxai.wrap("scenes-yolo")
    image = scene_images(1)[0].load()
    found = detxai.explain(detector, image, "l2x", explainer=summary["explainer"])
    assert found
    assert all(one.values.any() and one.cost.forward_passes == 1 for one in found)
    assert main([*words, "--set", "stepz=1"]) == 2
    assert "stepz" in capsys.readouterr().err
