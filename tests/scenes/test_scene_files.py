"""What is exported can be read by the tools it is meant for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from detxai.runs.files import write_bytes
from detxai.scenes import CLASS_NAMES, SceneDataset, export_coco, export_ultralytics, generate


def test_coco_annotations_hold_the_scene_and_its_evidence(tmp_path: Path) -> None:
    path = export_coco(tmp_path / "new", 5, seed=30)
    assert path == tmp_path / "new" / "annotations.json"
    coco = COCO(str(path))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASS_NAMES)
    for record in coco.loadImgs(coco.getImgIds()):
        scene = generate(record["seed"])
        np.testing.assert_array_equal(np.array(Image.open(path.parent / record["file_name"])), scene.image)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=record["id"]))
        assert len(annotations) == len(scene)
        for index, annotation in enumerate(annotations):
            left, top, width, height = annotation["bbox"]
            np.testing.assert_allclose([left, top, left + width, top + height], scene.boxes[index])
            assert annotation["category_id"] == scene.labels[index] + 1
            assert annotation["evidence_rule"] == scene.rules[index]
            np.testing.assert_array_equal(coco.annToMask(annotation), scene.silhouettes[index])
            evidence = coco.annToMask({**annotation, "segmentation": annotation["evidence"]})
            np.testing.assert_array_equal(evidence, scene.evidence[index])
            parts = [coco.annToMask({**annotation, "segmentation": part}) for part in annotation["evidence_parts"]]
            assert len(parts) == len(scene.evidence_parts[index])


def test_ultralytics_accepts_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ultralytics")
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    from ultralytics.data.utils import check_det_dataset

    path = export_ultralytics(tmp_path, 4, 2, seed=5)
    assert path == tmp_path / "data.yaml"
    data = check_det_dataset(str(path), autodownload=False)
    assert list(data["names"].values()) == list(CLASS_NAMES)
    assert Path(data["train"]).resolve() == (tmp_path / "images" / "train").resolve()
    for split, seeds in (("train", range(5, 9)), ("val", range(9, 11))):
        for seed in seeds:
            scene = generate(seed)
            assert (tmp_path / "images" / split / f"{seed:012d}.png").is_file()
            rows = np.loadtxt(tmp_path / "labels" / split / f"{seed:012d}.txt", ndmin=2)
            np.testing.assert_array_equal(rows[:, 0], scene.labels)
            centre, size = rows[:, 1:3] * 160, rows[:, 3:5] * 160
            np.testing.assert_allclose(np.hstack([centre - size / 2, centre + size / 2]), scene.boxes, atol=1e-3)
        assert len(json.loads((tmp_path / f"annotations_{split}.json").read_text())["images"]) == len(seeds)


def test_an_export_repeats_to_the_byte_and_can_be_moved(tmp_path: Path) -> None:
    first, second = export_coco(tmp_path / "a", 2, seed=1), export_coco(tmp_path / "b", 2, seed=1)
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path) not in first.read_text()
    assert str(tmp_path) not in export_ultralytics(tmp_path / "c", 1, 1).read_text()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_images": 0}, ValueError, "n_images must lie in"),
        ({"n_images": "3"}, TypeError, "n_images must be an integer, got str"),
        ({"n_images": 1, "kind": "no"}, ValueError, "kind must be one of"),
        ({"n_images": 1, "size": 5}, ValueError, "size must lie in"),
        ({"n_images": 1, "seed": -3}, ValueError, "seed must lie in"),
        ({"n_images": 1, "folder": 7}, TypeError, "folder must be a str or a Path, got int"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(
    tmp_path: Path, arguments: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_coco(**{"folder": tmp_path / "out", **arguments})
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    for call in (lambda: export_coco(tmp_path, 1), lambda: export_ultralytics(tmp_path, 1, 1)):
        with pytest.raises(FileExistsError, match="new or empty"):
            call()
    with pytest.raises(FileExistsError, match="is a file"):
        export_coco(kept, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_dataset_feeds_a_torchvision_detector() -> None:
    dataset = SceneDataset(3, seed=40, kind="joint")
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=3, collate_fn=lambda items: tuple(zip(*items, strict=True))
    )
    (batch,) = loader
    for index, (image, target) in enumerate(zip(*batch, strict=True)):
        scene = generate(40 + index, "joint")
        assert image.shape == (3, 160, 160)
        np.testing.assert_array_equal((image * 255).round().byte().numpy().transpose(1, 2, 0), scene.image)
        np.testing.assert_array_equal(target["labels"].numpy(), scene.labels + 1)
        np.testing.assert_array_equal(target["boxes"].numpy(), scene.boxes)
        np.testing.assert_array_equal(target["evidence"].numpy(), scene.evidence)


def test_the_dataset_checks_its_arguments_at_once() -> None:
    assert len(SceneDataset(0)) == 0
    with pytest.raises(ValueError, match="kind must be one of"):
        SceneDataset(1, kind="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="first_label must lie in"):
        SceneDataset(1, first_label=2)
    with pytest.raises(IndexError, match="index must lie in"):
        SceneDataset(2)[2]
