"""A YOLO data set: ``data.yaml``, images, and a txt file of labels for each.

Source: https://docs.ultralytics.com/datasets/detect: one line an object, ``class x y width height``, the centre and the
sides as shares of the image's width and height; or ``class x y x y ...``, an outline, whose box counts here. The labels
of ``images/a/b.jpg`` are in ``labels/a/b.txt``; an image without that file is background.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from detxai.data.given_paths import expect_folder
from detxai.data.readers.annotated_images import (
    SUFFIXES,
    AnnotatedImages,
    CocoContent,
    expect_images,
    image_names,
    number,
    read_text,
)
from detxai.messages import short_repr

SPLITS = ("train", "val", "test")
EDGE = 0.01  # of the side: how far rounding may put a coordinate beyond the image; ultralytics allows as much


def read_yolo(path: Path, images: Path | None = None, split: str | None = None) -> AnnotatedImages:
    """A YOLO ``data.yaml``; see ``read_annotated_images``. Category ids are YOLO's class numbers.

    Raises:
        FileNotFoundError: a folder or list that the file names is not there.
        ValueError: the file or a line of the labels is wrong; the message names file, line and field.
    """
    where = f"annotations: {path}"
    described = _yaml(path, where)
    names = _class_names(described, where)
    root = _root(path, described, where) if images is None else images
    expect_folder(root, "images" if images is not None else f"{where}: 'path'")
    content = CocoContent(names)
    for name in _images_of(described, split or "val", root, where):
        image_id, size = content.add_image_file(name, root)
        labels = _labels_of(root / name)
        if size is None or not labels.is_file():
            continue
        for category, bbox in _objects(labels, names, size[0], size[1]):
            content.add_annotation(image_id, category, bbox)
    return AnnotatedImages(content.record(), root, "yolo")


def _yaml(path: Path, where: str) -> dict[str, Any]:
    text = read_text(path, "annotations")
    try:
        described = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(described, dict):
        raise ValueError(f"{where} must be a mapping with 'names' and {', '.join(SPLITS)}, got {short_repr(described)}")
    return described


def _class_names(described: dict[str, Any], where: str) -> dict[int, str]:
    given = described.get("names")
    named = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(named, dict) or not named:
        raise ValueError(f"{where}: 'names' must be a list of class names or a mapping, got {short_repr(given)}")
    for number_, name in named.items():
        if isinstance(number_, bool) or not isinstance(number_, int) or number_ < 0:
            raise ValueError(f"{where}: 'names' must map whole numbers from 0, got {short_repr(number_)}")
        if not isinstance(name, (str, int, float)) or not str(name).strip():
            raise ValueError(f"{where}: 'names' must have a text for class {number_}, got {short_repr(name)}")
    if described.get("nc", len(named)) != len(named):
        raise ValueError(f"{where}: 'nc' must be the number of 'names', {len(named)}; got {described['nc']!r}")
    repeated = sorted(
        str(name) for name in set(map(str, named.values())) if list(map(str, named.values())).count(name) > 1
    )
    if repeated:
        raise ValueError(f"{where}: 'names' must differ, got {', '.join(repeated)} more than once")
    return {number_: str(name) for number_, name in sorted(named.items())}


def _root(path: Path, described: dict[str, Any], where: str) -> Path:
    """The folder that the splits are relative to: ``path``, itself relative to the file or to the working folder."""
    given = described.get("path")
    if given is None or given == "":
        return path.parent
    if not isinstance(given, str) or "\0" in given:
        raise ValueError(f"{where}: 'path' must be the text of a path, got {short_repr(given)}")
    if Path(given).is_absolute():
        return Path(given)
    beside = path.parent / given
    return beside if beside.is_dir() else Path(given)


def _images_of(described: dict[str, Any], split: str, root: Path, where: str) -> list[str]:
    """The images of a split, relative to ``root``."""
    given = described.get(split)
    if given is None or given == "" or given == []:
        there = [name for name in described if name in SPLITS and described[name]]
        raise ValueError(f"{where}: there is no split {split!r}; there are {', '.join(there) or 'none'}; give --split")
    entries = given if isinstance(given, list) else [given]
    names: list[str] = []
    for entry in entries:
        if not isinstance(entry, str) or "\0" in entry:
            raise ValueError(
                f"{where}: {split!r} must be a folder, a txt file or a list of them, got {short_repr(entry)}"
            )
        source = root / entry
        if source.suffix == ".txt":
            names += _listed(source, root, f"{where}: {split!r}")
        else:
            expect_folder(source, f"{where}: {split!r}")
            names += image_names(source, _common(source, root, f"{where}: {split!r}"))
    expect_images(names, f"{where}: {split!r}")
    return list(dict.fromkeys(names))


def _common(source: Path, root: Path, where: str) -> Path:
    if not source.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{where} must be below {root}, got {source}; give the folder above all of them as --images")
    return root


def _listed(source: Path, root: Path, where: str) -> list[str]:
    """The images of a txt file, one a line: ``./`` is the file's own folder, as ultralytics reads it."""
    names = []
    for line, text in enumerate(read_text(source, where).splitlines(), start=1):
        if not text.strip():
            continue
        name = text.strip()
        file = source.parent / name[2:] if name.startswith("./") else root / name
        if file.suffix.lower() not in SUFFIXES or "\0" in name:
            raise ValueError(f"{where}: {source}, line {line}: must be an image ({', '.join(SUFFIXES)}), got {name!r}")
        _common(file, root, f"{where}: {source}, line {line}")
        names.append(file.resolve().relative_to(root.resolve()).as_posix())
    return names


def _labels_of(image: Path) -> Path:
    """The last folder called ``images`` becomes ``labels``; where there is none, the labels are beside the image."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _objects(labels: Path, names: dict[int, str], height: int, width: int) -> list[tuple[int, list[float]]]:
    """Class and x, y, width, height in pixels of each line; equal lines count once, as ultralytics reads them."""
    objects = []
    lengths: set[bool] = set()
    for line, text in enumerate(read_text(labels, "labels").splitlines(), start=1):
        words = text.split()
        if not words:
            continue
        name = f"labels: {labels}, line {line}"
        if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
            raise ValueError(
                f"{name}: must be 'class x y width height', or 'class x y x y x y ...' with three corners or more; "
                f"got {len(words)} numbers"
            )
        lengths.add(len(words) == 5)
        if len(lengths) > 1:
            raise ValueError(f"{name}: must be a box or an outline as the lines before; one file cannot hold both")
        label = number(words[0], f"{name}: class")
        if label not in names:
            raise ValueError(f"{name}: class must be one of the {len(names)} in 'names', got {words[0]}")
        sides = [number(word, f"{name}: number {place}") for place, word in enumerate(words[1:], start=2)]
        outside = [side for side in sides if not -EDGE <= side <= 1 + EDGE]
        if outside:
            raise ValueError(f"{name}: coordinates must be shares of the image, in [0, 1], got {outside[0]:g}")
        objects.append((int(label), _pixels(sides, height, width)))
    return [one for place, one in enumerate(objects) if one not in objects[:place]]


def _pixels(sides: list[float], height: int, width: int) -> list[float]:
    """x, y, width, height in pixels, of a box or an outline given as shares of the image."""
    if len(sides) == 4:
        x, y, box_width, box_height = sides
        left, top, right, bottom = x - box_width / 2, y - box_height / 2, x + box_width / 2, y + box_height / 2
    else:
        left, top, right, bottom = min(sides[::2]), min(sides[1::2]), max(sides[::2]), max(sides[1::2])
    return [left * width, top * height, (right - left) * width, (bottom - top) * height]
