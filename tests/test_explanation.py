"""An explanation keeps its raw map, and what it writes can be read back and redone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from detxai.detections import Detections
from detxai.explanation import Cost, Explanation, plain
from detxai.runs.files import replacing

VALUES = np.array([[0.5, -2.0, 0.0], [1.0, 0.25, -0.5]], dtype=np.float32)
IMAGE = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


def explanation(values: np.ndarray = VALUES, **changed: object) -> Explanation:
    found = Detections([[0, 0, 2, 2]], [0.9], [1], {1: "cat"})
    given = {"method": "m", "settings": {"ratio": 0.1}, "cost": Cost(1.5, 7), "detection": found, **changed}
    return Explanation(values, IMAGE, **given)  # type: ignore[arg-type]


def test_the_heatmap_is_the_positive_part_over_its_peak() -> None:
    assert explanation().heatmap.tolist() == [[0.5, 0, 0], [1, 0.25, 0]]
    assert explanation().values.tolist() == VALUES.tolist()


@pytest.mark.parametrize("level", [0.0, -3.0])
def test_nothing_in_favour_is_all_zeros(level: float) -> None:
    flat = explanation(np.full((2, 3), level, np.float32))
    assert flat.heatmap.tolist() == np.zeros((2, 3)).tolist()


def test_a_saved_map_reads_back_without_pickle(tmp_path: Path) -> None:
    effects = torch.tensor([0.5, float("nan")])
    explanation(channel_effects=effects).save_map(tmp_path / "a.npz", file="cat.jpg")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["values"], VALUES)
        assert np.array_equal(arrays["channel_effects"], effects.numpy(), equal_nan=True)
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["detection"] == {"box": [0, 0, 2, 2], "score": pytest.approx(0.9), "label": 1, "name": "cat"}
    assert record["settings"] == {"ratio": 0.1}
    assert record["cost"] == {"seconds": 1.5, "forward_passes": 7}
    assert record["file"] == "cat.jpg"
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0] or record["versions"]["torch"]
    assert {file.name for file in tmp_path.iterdir()} == {"a.npz", "a.json"}


def test_a_map_that_was_interrupted_says_so_wherever_it_is_stored(tmp_path: Path) -> None:
    for partial in (False, True):
        made = explanation(partial=partial)
        made.save_map(tmp_path / "a.npz")
        with np.load(tmp_path / "a.npz") as arrays:
            assert ("partial" in arrays) == partial
        assert json.loads((tmp_path / "a.json").read_text())["partial"] is partial
        assert made.caption.endswith("· partial") == partial


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == ["a.json"]
    assert path.read_text() == "old"


def test_anything_becomes_plain_json() -> None:
    value = {"a": (1, None), "d": torch.device("cpu"), "t": torch.ones(2), "f": plain, "p": Path("x")}
    assert json.loads(json.dumps(plain(value)))["f"] == "detxai.explanation:plain"


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "pdf", "svg"])
def test_save_writes_the_format_the_name_says(ending: str, tmp_path: Path) -> None:
    path = explanation().save(tmp_path / f"a.{ending}")
    assert path.stat().st_size > 500
    assert os.listdir(tmp_path) == [f"a.{ending}"]
    if ending in ("png", "jpg", "webp"):
        with PIL.Image.open(path) as picture:
            assert min(picture.size) > 100
