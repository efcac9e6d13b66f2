"""The RT-DETR of the scenes is trained with the loss it was published with, and its training repeats."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detxai.scenes import generate
from detxai.scenes.detectors.weights_file import read_weights
from detxai.scenes.training import train_rtdetr as training
from detxai.scenes.training.hint import FarHint
from detxai.scenes.training.set_loss import Objects, match
from detxai.scenes.training.stream import SceneBatches, ScenePool, paint_scenes, training_seed
from detxai.scenes.training.train_rtdetr import RtdetrTraining, losses, train_rtdetr

pytest.importorskip("transformers")
from detxai.scenes.detectors.rtdetr import build_rtdetr

TINY = RtdetrTraining(steps=2, batch_size=1, checkpoint_every=1)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return build_rtdetr()


def test_the_loss_is_transformers_own(model: Any) -> None:
    images, objects = SceneBatches(0, 4, "cpu").batch(0)
    assert len(set(objects.present.sum(1).tolist())) > 1, "images with different numbers of objects"
    labels = [
        {"class_labels": row[here], "boxes": boxes[here]}
        for row, boxes, here in zip(objects.labels, objects.boxes, objects.present, strict=True)
    ]
    hint = FarHint([128] * 3)
    torch.manual_seed(1)  # of the noise
    mine = losses(model, hint, images, objects)
    torch.manual_seed(1)
    theirs = model(pixel_values=images, labels=labels).loss_dict
    for name, part in (("class", "vfl"), ("l1", "bbox"), ("giou", "giou")):
        for prefix in ("", "noisy "):
            same = [value for key, value in theirs.items() if part in key and ("_dn" in key) == bool(prefix)]
            torch.testing.assert_close(mine[prefix + name], torch.stack(same).sum(), rtol=1e-5, atol=1e-5)


def test_objects_are_matched_to_the_queries_that_fit_them() -> None:
    boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.7, 0.6, 0.3, 0.2], [0.5, 0.5, 0.9, 0.9]])
    logits = torch.tensor([[4.0, -4.0], [-4.0, 4.0], [-4.0, -4.0]])
    objects = Objects(torch.tensor([[1, 0], [0, -1]]), torch.stack([boxes[[1, 0]], boxes[[0, 2]]]))
    chosen = match(logits.expand(1, 2, 3, 2), boxes.expand(1, 2, 3, 4), objects)
    assert chosen[0, 0].tolist() == [1, 0]
    assert chosen[0, 1, 0] == 0


def test_painted_scenes_are_the_generators_own() -> None:
    first = training_seed(0, 64)
    scenes = paint_scenes(first, 3)
    for row in range(3):
        scene = generate(first + row)
        assert np.array_equal(scenes.images[row], scene.image)
        assert scenes.labels[row].tolist() == [*scene.labels, *[-1] * (4 - len(scene))]
        centre, size = np.split(scenes.boxes[row, : len(scene)] * 160, 2, axis=1)
        np.testing.assert_allclose(
            np.concatenate([centre - size / 2, centre + size / 2], axis=1), scene.boxes, atol=1e-4
        )


def test_the_pool_holds_scenes_of_the_run_and_is_closed() -> None:
    pool = ScenePool(0, 2, "cpu", 1, capacity=32, first=32)
    try:
        images, objects = pool.batch(0)
    finally:
        pool.close()
    known = paint_scenes(training_seed(0, 0))
    for image, labels in zip(images, objects.labels, strict=True):
        painted = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        (row,) = [row for row in range(32) if np.array_equal(known.images[row], painted)]
        assert labels.tolist() == known.labels[row].tolist()


def test_a_resumed_run_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_weights(train_rtdetr(tmp_path / "whole", TINY, progress=False))
    done: list[int] = []
    plain = training.losses

    def interrupted(*arguments: Any) -> dict[str, torch.Tensor]:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(1)
        return plain(*arguments)

    monkeypatch.setattr(training, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_rtdetr(tmp_path / "parts", TINY, progress=False)
    monkeypatch.setattr(training, "losses", plain)
    resumed = read_weights(train_rtdetr(tmp_path / "parts", TINY, progress=False))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    with pytest.raises(ValueError, match=r"was made with settings .* choose another --out"):
        train_rtdetr(tmp_path / "parts", RtdetrTraining(steps=9, batch_size=1), progress=False)


def test_minutes_end_a_training_with_weights(tmp_path: Path) -> None:
    weights = train_rtdetr(tmp_path, RtdetrTraining(minutes=0.01, batch_size=1), progress=False)
    assert read_weights(weights).keys() == build_rtdetr().state_dict().keys()
