"""Annotations in five formats: written by each tool's own library, or read by it, and equal to what detxai reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from detxai.data.coco_files import as_annotations
from detxai.data.readers import AnnotatedImages, read_annotated_images
from detxai.data.readers.voc import parse_xml

NAMES = ["ape", "bee", "cat"]
Truth = dict[str, list[tuple[str, list[float]]]]  # file name -> class and x1, y1, x2, y2 of each object


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """Four pictures of different sizes with whole-numbered boxes; nothing is in the last."""
    folder, rng = tmp_path_factory.mktemp("truth") / "images", np.random.default_rng(0)
    folder.mkdir()
    objects: Truth = {}
    for i in range(4):
        width, height = 60 + 7 * i, 40 + 3 * i
        PIL.Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        objects[f"{i}.png"] = []
        for _ in range(3 if i < 3 else 0):
            x1, y1 = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
            x2, y2 = int(rng.integers(x1 + 2, width + 1)), int(rng.integers(y1 + 2, height + 1))
            objects[f"{i}.png"].append((str(rng.choice(NAMES)), [float(x1), float(y1), float(x2), float(y2)]))
    return folder, objects


def objects_of(source: AnnotatedImages) -> Truth:
    """What was read, after the check that every format must pass."""
    coco = as_annotations(source.content)
    found: Truth = {image["file_name"]: [] for image in source.content["images"]}
    for record in source.content["annotations"]:
        x, y, width, height = record["bbox"]
        name = coco.cats[record["category_id"]]["name"]
        found[coco.imgs[record["image_id"]]["file_name"]].append((name, [x, y, x + width, y + height]))
    return found


def assert_same(found: Truth, expected: Truth, tolerance: float = 0.0) -> None:
    assert list(found) == list(expected)
    for name, objects in expected.items():
        assert sorted(one for one, _ in found[name]) == sorted(one for one, _ in objects)
        for (_, ours), (_, theirs) in zip(sorted(found[name]), sorted(objects), strict=True):
            assert ours == pytest.approx(theirs, abs=tolerance)


def by_supervision(truth: tuple[Path, Truth]) -> Any:
    supervision = pytest.importorskip("supervision")
    folder, objects = truth
    annotations = {
        str(folder / name): supervision.Detections(
            xyxy=np.array([box for _, box in of_image], dtype=float).reshape(-1, 4),
            class_id=np.array([NAMES.index(label) for label, _ in of_image], dtype=int),
        )
        for name, of_image in objects.items()
    }
    return supervision.DetectionDataset(NAMES, [str(folder / name) for name in objects], annotations)


def write_yolo(truth: tuple[Path, Truth], root: Path) -> Path:
    """By hand, as the documentation of ultralytics says."""
    folder, objects = truth
    (root / "images/val").mkdir(parents=True)
    (root / "labels/val").mkdir(parents=True)
    for name, of_image in objects.items():
        (root / "images/val" / name).write_bytes((folder / name).read_bytes())
        width, height = PIL.Image.open(folder / name).size
        lines = [
            f"{NAMES.index(label)} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} "
            f"{(y2 - y1) / height}"
            for label, (x1, y1, x2, y2) in of_image
        ]
        if lines:
            (root / "labels/val" / Path(name).with_suffix(".txt")).write_text("\n".join(lines))
    data = root / "data.yaml"
    data.write_text(f"path: {root}\ntrain: images/val\nval: images/val\nnames: {json.dumps(NAMES)}\n")
    return data


def test_yolo_labels_are_those_that_ultralytics_reads(truth: tuple[Path, Truth], tmp_path: Path) -> None:
    utils = pytest.importorskip("ultralytics.data.utils")
    data = write_yolo(truth, tmp_path / "set")
    outline = "1 0.1 0.2 0.5 0.1 0.6 0.9 0.2 0.7\n2 0.5 0.5 0.75 0.5 0.75 1.0\n2 0.5 0.5 0.75 0.5 0.75 1.0\n"
    (tmp_path / "set/labels/val/1.txt").write_text(outline)
    theirs = utils.check_det_dataset(str(data), autodownload=False)
    source = read_annotated_images(data)
    assert source.format == "yolo"
    assert {one["id"]: one["name"] for one in source.content["categories"]} == theirs["names"]
    for image in source.content["images"]:
        file = Path(theirs["val"]) / Path(image["file_name"]).name
        labels = tmp_path / "set/labels/val" / file.with_suffix(".txt").name
        _, expected, size, *_ = utils.verify_image_label((str(file), str(labels), "", False, 3, 0, 2, False))
        assert (image["height"], image["width"]) == size
        ours = [record for record in source.content["annotations"] if record["image_id"] == image["id"]]
        shares = [
            [
                one["category_id"],
                (one["bbox"][0] + one["bbox"][2] / 2) / size[1],
                (one["bbox"][1] + one["bbox"][3] / 2) / size[0],
                one["bbox"][2] / size[1],
                one["bbox"][3] / size[0],
            ]
            for one in ours
        ]
        assert np.allclose(np.array(sorted(shares)).reshape(-1, 5), sorted(expected.tolist()) or np.zeros((0, 5)))


@pytest.mark.parametrize("named", ["images/val", ["images/val"], "val.txt", "val_dots.txt"])
def test_a_split_is_a_folder_or_a_list(truth: tuple[Path, Truth], tmp_path: Path, named: Any) -> None:
    data, names = write_yolo(truth, tmp_path / "set"), list(truth[1])
    (tmp_path / "set/val.txt").write_text("".join(f"images/val/{name}\n" for name in names))
    (tmp_path / "set/val_dots.txt").write_text("".join(f"./images/val/{name}\n\n" for name in names))
    data.write_text(f"val: {json.dumps(named)}\nnc: 3\nnames: {{0: ape, 1: bee, 2: cat}}\n")
    found = objects_of(read_annotated_images(data))
    assert_same({Path(name).name: objects for name, objects in found.items()}, truth[1], 1e-9)


def test_pascal_voc_as_supervision_writes_it(truth: tuple[Path, Truth], tmp_path: Path) -> None:
    by_supervision(truth).as_pascal_voc(annotations_directory_path=str(tmp_path / "voc"))
    source = read_annotated_images(tmp_path / "voc", truth[0])
    assert source.format == "voc"
    assert_same(objects_of(source), truth[1])


def test_yolo_as_supervision_writes_it(truth: tuple[Path, Truth], tmp_path: Path) -> None:
    root = tmp_path / "yolo"
    by_supervision(truth).as_yolo(str(root / "images"), str(root / "labels"), str(root / "data.yaml"))
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(f"{text}\nval: images\n")  # it names no split
    found = objects_of(read_annotated_images(root / "data.yaml"))
    assert_same({Path(name).name: objects for name, objects in found.items()}, truth[1], 1e-3)  # five decimals


def test_coco_as_supervision_writes_it(truth: tuple[Path, Truth], tmp_path: Path) -> None:
    by_supervision(truth).as_coco(annotations_path=str(tmp_path / "instances.json"))
    source = read_annotated_images(tmp_path / "instances.json", truth[0])
    assert_same(objects_of(source), truth[1])


def write_voc(root: Path, *, first: int = 1, difficult: int = 0) -> Path:
    (root / "Annotations").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/val.txt").write_text("b\n")
    for stem in "ab":
        PIL.Image.new("RGB", (50, 40)).save(root / f"JPEGImages/{stem}.jpg")
        (root / f"Annotations/{stem}.xml").write_text(
            f"<annotation><filename>{stem}.jpg</filename><size><width>50</width><height>40</height></size>\n<object>"
            f"<name>cat</name><difficult>{difficult}</difficult><bndbox><xmin>{first}</xmin><ymin>{first}</ymin>"
            "<xmax>50</xmax><ymax>40</ymax></bndbox><part><name>head</name></part></object></annotation>"
        )
    return root


def test_a_voc_box_from_the_first_pixel_to_the_last_is_the_whole_image(tmp_path: Path) -> None:
    """VOC counts pixels from 1, both ends included; a corner at 0 says that a tool counted from 0."""
    for first in (0, 1):
        source = read_annotated_images(write_voc(tmp_path / str(first), first=first))
        assert [one["bbox"] for one in source.content["annotations"]] == [[0, 0, 50, 40]] * 2
        assert source.images == tmp_path / str(first) / "JPEGImages"


def test_voc_splits_and_difficult_objects(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", difficult=1)
    source = read_annotated_images(root, split="val")
    assert [image["file_name"] for image in source.content["images"]] == ["b.jpg"]
    assert [one["iscrowd"] for one in source.content["annotations"]] == [1]


ENTITIES = {
    "laughs": '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>',
    "file": '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><annotation>&b;</annotation>',
    "type": '<!DOCTYPE annotation SYSTEM "voc.dtd"><annotation/>',
}


@pytest.mark.parametrize("which", ENTITIES)
def test_entities_of_xml_are_refused(tmp_path: Path, which: str) -> None:
    (tmp_path / "a.xml").write_text(ENTITIES[which])
    with pytest.raises(ValueError, match=r"a\.xml, line 1: document types and entities"):
        parse_xml(tmp_path / "a.xml")
    (tmp_path / "a.xml").write_text("<a>" * 100_000)
    with pytest.raises(ValueError, match="nested deeper"):
        parse_xml(tmp_path / "a.xml")


def hub_dataset(truth: tuple[Path, Truth]) -> Any:
    datasets = pytest.importorskip("datasets")
    folder, objects = truth
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("int64"),
            "objects": datasets.List(
                {"bbox": datasets.List(datasets.Value("float32"), 4), "category": datasets.ClassLabel(names=NAMES)}
            ),
        }
    )
    rows = {
        "image": [{"bytes": (folder / name).read_bytes(), "path": None} for name in objects],
        "image_id": [100 + place for place in range(len(objects))],
        "objects": [
            [{"bbox": [x1, y1, x2 - x1, y2 - y1], "category": label} for label, (x1, y1, x2, y2) in of_image]
            for of_image in objects.values()
        ],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def as_struct_of_lists(dataset: Any) -> Any:
    """As ``Sequence`` of a dict kept it: what most of the Hub's detection sets are."""
    datasets = pytest.importorskip("datasets")
    box, label = datasets.List(datasets.List(datasets.Value("float32"), 4)), datasets.ClassLabel(names=NAMES)
    features = datasets.Features({**dataset.features, "objects": {"bbox": box, "category": datasets.List(label)}})
    objects = [
        {"bbox": [one["bbox"] for one in row], "category": [one["category"] for one in row]}
        for row in dataset["objects"]
    ]
    return dataset.remove_columns("objects").add_column("objects", objects, feature=features["objects"])


def saved(dataset: Any, path: Path) -> Path:
    dataset.save_to_disk(str(path))
    return path


def parquet(dataset: Any, path: Path) -> Path:
    path.mkdir()
    dataset.to_parquet(str(path / "validation-00000-of-00001.parquet"))
    return path


@pytest.mark.parametrize("store", [saved, parquet])
@pytest.mark.parametrize("shape", [lambda dataset: dataset, as_struct_of_lists], ids=["structs", "lists"])
def test_a_hub_dataset_as_datasets_writes_it(
    truth: tuple[Path, Truth], tmp_path: Path, store: Callable[[Any, Path], Path], shape: Callable[[Any], Any]
) -> None:
    path = store(shape(hub_dataset(truth)), tmp_path / "set")
    for _ in range(2):  # what is written already is taken as it is
        source = read_annotated_images(path, tmp_path / "images")
    assert source.format == "huggingface"
    assert [image["id"] for image in source.content["images"]] == [100, 101, 102, 103]
    assert {one["id"]: one["name"] for one in source.content["categories"]} == dict(enumerate(NAMES))
    expected = {f"{place:08d}.png": objects for place, objects in enumerate(truth[1].values())}
    assert_same(objects_of(source), expected)
    for written, name in zip(sorted((tmp_path / "images").iterdir()), truth[1], strict=True):
        assert written.read_bytes() == (truth[0] / name).read_bytes()
    (tmp_path / "images/00000001.png").write_bytes(b"a picture of the user's own")
    with pytest.raises(ValueError, match=r"00000001\.png is another picture"):
        read_annotated_images(path, tmp_path / "images")
    assert (tmp_path / "images/00000001.png").read_bytes() == b"a picture of the user's own"


def test_a_dataset_of_several_splits_wants_one_named(truth: tuple[Path, Truth], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = hub_dataset(truth)
    path = saved(datasets.DatasetDict({"train": whole.select([0]), "test": whole.select([2, 1])}), tmp_path / "set")
    with pytest.raises(ValueError, match="several splits; there are train, test; give --split"):
        read_annotated_images(path, tmp_path / "images")
    source = read_annotated_images(path, tmp_path / "images", split="test")
    assert [image["id"] for image in source.content["images"]] == [102, 101]


def test_a_folder_of_images_has_no_annotations(truth: tuple[Path, Truth]) -> None:
    for given in ((truth[0], None), (None, truth[0])):
        source = read_annotated_images(*given)
        assert not source.annotated
        assert [image["file_name"] for image in source.content["images"]] == list(truth[1])
        named = source.with_categories({1: "ape", 2: "N/A", 3: "N/A"})
        assert named.content["categories"] == [{"id": 1, "name": "ape"}]
        as_annotations(named.content)


def test_an_image_that_cannot_be_read_does_not_stop_the_reader(truth: tuple[Path, Truth], tmp_path: Path) -> None:
    """It has no size; a run records it as a failure and goes on."""
    data = write_yolo(truth, tmp_path / "set")
    (tmp_path / "set/images/val/1.png").write_bytes(b"damaged")
    source = read_annotated_images(data)
    sizes = {Path(one["file_name"]).name: "height" in one for one in source.content["images"]}
    assert sizes == {"0.png": True, "1.png": False, "2.png": True, "3.png": True}


BAD_YOLO = [
    ("labels/val/0.txt", "0 0.5 0.5 0.1", r"0\.txt, line 1: must be 'class x y"),
    (
        "labels/val/0.txt",
        "0 0.5 0.5 0.1 0.1\n7 0.5 0.5 0.1 0.1",
        r"0\.txt, line 2: class must be one of the 3 .* got 7",
    ),
    ("labels/val/0.txt", "0.5 0.5 0.5 0.1 0.1", r"line 1: class must be one of"),
    ("labels/val/0.txt", "0 0.5 nan 0.1 0.1", r"line 1: number 3 must be a finite number, got 'nan'"),
    ("labels/val/0.txt", "0 50 50 10 10", r"line 1: coordinates must be shares of the image"),
    ("labels/val/0.txt", "0 .5 .5 .1 .1\n0 .1 .1 .2 .2 .3 .1", r"line 2: must be a box or an outline"),
    ("data.yaml", "names: [a]\n", r"there is no split 'val'; there are none"),
    ("data.yaml", "val: nowhere\nnames: [a]\n", r"'val': no such folder: .*nowhere"),
    ("data.yaml", "val: images/val\nnames: []\n", r"'names' must be a list of class names"),
    ("data.yaml", "val: images/val\nnames: [a, a]\n", r"'names' must differ, got a more than once"),
    ("data.yaml", "val: images/val\nnames: [a]\nnc: 3\n", r"'nc' must be the number of 'names', 1; got 3"),
    ("data.yaml", "val: [3]\nnames: [a]\n", r"'val' must be a folder, a txt file or a list of them, got 3"),
    ("data.yaml", "val: ../..\nnames: [a]\n", r"'val' must be below"),
    ("data.yaml", "- a\n", r"must be a mapping with 'names'"),
    ("data.yaml", "a: [\n", r"is not YAML"),
    ("data.yaml", "!!python/object/apply:os.getcwd []", r"is not YAML"),
]


@pytest.mark.parametrize(("file", "text", "message"), BAD_YOLO)
def test_a_fault_in_yolo_names_its_file_and_line(
    truth: tuple[Path, Truth], tmp_path: Path, file: str, text: str, message: str
) -> None:
    data = write_yolo(truth, tmp_path / "set")
    (tmp_path / "set" / file).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_annotated_images(data)


BAD_VOC = [
    ("<xmax>50</xmax>", "<xmax>wide</xmax>", r"a\.xml, line 2: <object>: <xmax> must be a finite number, got 'wide'"),
    ("<xmax>50</xmax>", "", r"a\.xml, line 2: <object>, line 2: must have one <xmax>"),
    ("<xmax>50</xmax>", "<xmax>0.5</xmax>", r"must have xmin <= xmax"),
    ("<filename>a.jpg", "<filename>../a.jpg", r"<filename> must be a file in the folder of images"),
    ("<width>50", "<width>-5", r"<size>: <width> must be a whole number from 0, got -5"),
    ("<xmin>1<", "<xmin>-1<", r"line 2: <object>: <bndbox> must lie in the image"),
    ("<annotation>", "<annotations>", r"is not XML"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD_VOC)
def test_a_fault_in_voc_names_its_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    root = write_voc(tmp_path / "voc")
    file = root / "Annotations/a.xml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_annotated_images(root)


BAD_OBJECTS = [
    ([{"bbox": [1, 2, 3], "category": 0}], r"row 0: objects\[0\]\.bbox must be x, y, width and height"),
    ([{"bbox": [30, 30, 60, 45], "category": 0}], r"row 0: objects\[0\]\.bbox .* are these corners\?"),
    ([{"bbox": [1, 2, 3, 4], "category": None}], r"row 0: objects\[0\]\.category must be a number or a name"),
    ([{"bbox": [1, 2, 3, float("nan")], "category": 1}], r"row 0: objects\[0\]\.bbox must be a finite number"),
    (None, r"row 0: objects must be a list of objects, got None"),
]


@pytest.mark.parametrize(("objects", "message"), BAD_OBJECTS)
def test_a_fault_in_a_hub_dataset_names_its_row(
    truth: tuple[Path, Truth], tmp_path: Path, objects: Any, message: str
) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    rows = [{"image": {"bytes": (truth[0] / "0.png").read_bytes()}, "objects": objects}]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    with pytest.raises(ValueError, match=message):
        read_annotated_images(tmp_path / "set.parquet", tmp_path / "images")


def test_federated_annotations_are_refused_by_name(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "a.jpg", "neg_category_ids": [], "not_exhaustive_category_ids": [2]}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"lvis\.json: images\[0\] has neg_category_ids and .*LVIS"):
        read_annotated_images(tmp_path / "lvis.json", tmp_path)


def test_what_is_of_no_format_is_refused(truth: tuple[Path, Truth], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is in no known format"):
        read_annotated_images(tmp_path / "empty")
    write_yolo(truth, tmp_path / "yolo")
    with pytest.raises(ValueError, match=r"is a folder with data\.yaml: give that file"):
        read_annotated_images(tmp_path / "yolo")
    with pytest.raises(FileNotFoundError, match="no such file: "):
        read_annotated_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="split is for yolo, voc, huggingface"):
        read_annotated_images(truth[0], split="val")
    with pytest.raises(ValueError, match="annotation_format must be one of"):
        read_annotated_images(truth[0], annotation_format="csv")
    with pytest.raises(ValueError, match="give annotations, or a folder of images"):
        read_annotated_images(None)
