"""Pascal VOC: an XML file for each image.

Source: Everingham et al., 2010, The Pascal Visual Object Classes Challenge (IJCV), and its development kit: ``xmin``,
``ymin``, ``xmax`` and ``ymax`` are pixels counted from 1, both ends included. Objects marked as difficult count neither
way, as crowds of COCO do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from detxai.data.given_paths import expect_folder
from detxai.data.readers.annotated_images import AnnotatedImages, CocoContent, Size, number, read_text
from detxai.messages import short_repr

log = logging.getLogger(__name__)

DEEPEST = 20  # elements inside one another: VOC needs four


@dataclass
class Element:
    """One element of an XML file: its name, the line it begins on, its text and what is inside it."""

    name: str
    line: int
    text: str = ""
    inside: list[Element] = field(default_factory=list)

    def all(self, name: str) -> list[Element]:
        return [element for element in self.inside if element.name == name]

    def first(self, name: str) -> Element | None:
        return next(iter(self.all(name)), None)


@dataclass(frozen=True)
class VocObject:
    """One object: its class, its corners as the file has them, and whether it counts."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    where: str


def read_voc(path: Path, images: Path | None = None, split: str | None = None) -> AnnotatedImages:
    """Pascal VOC's XML files; see ``read_annotated_images``.

    Category ids count the class names, sorted, from 1. Where a corner is 0, the tool that wrote the files counts from
    0, and the whole data set is read so, which is logged.

    Args:
        path: a folder of XML files, one above ``Annotations``, or one XML file.
        images: default: ``JPEGImages`` beside ``Annotations``, or the folder of the XML files.
        split: a file ``ImageSets/Main/<split>.txt`` that lists the images.

    Raises:
        FileNotFoundError: no such folder or list.
        ValueError: a file is wrong; the message names file, line and field.
    """
    root = path if (path / "Annotations").is_dir() else path.parent
    folder = path / "Annotations" if (path / "Annotations").is_dir() else path
    files = [path] if path.is_file() else _files(folder, root, split)
    beside = root / "JPEGImages"
    photos = images if images is not None else beside if beside.is_dir() else files[0].parent
    expect_folder(photos, "images")
    read = [(*_image(tree := parse_xml(file), file), _objects(tree, file)) for file in files]
    first = _first_pixel([one for _, _, objects in read for one in objects])
    names = sorted({one.name for _, _, objects in read for one in objects})
    content = CocoContent(dict(enumerate(names, start=1)))
    for file_name, size, objects in read:
        image_id = content.add_image(file_name, size)
        for one in objects:
            left, top, right, bottom = one.corners
            bbox = [left - first, top - first, right - left + first, bottom - top + first]
            content.add_annotation(image_id, names.index(one.name) + 1, bbox, iscrowd=int(one.difficult))
    return AnnotatedImages(content.record(), photos, "voc")


def _files(folder: Path, root: Path, split: str | None) -> list[Path]:
    expect_folder(folder, "annotations")
    if split is None:
        files = sorted(folder.glob("*.xml"))
    else:
        listing = root / "ImageSets" / "Main" / f"{split}.txt"
        lines = read_text(listing, f"annotations: split {split!r}").splitlines()
        files = [folder / f"{line.split()[0]}.xml" for line in lines if line.strip()]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"annotations: {listing} lists {missing[0].stem}, but there is no {missing[0]}")
    if not files:
        raise ValueError(f"annotations: {folder} must hold Pascal VOC's XML files, got none")
    return files


def parse_xml(file: Path) -> Element:
    """The root of an XML file. Document types and entities are refused: a data set needs none, and they can make a few
    lines fill the memory or read other files.

    Raises:
        ValueError: it is not XML, declares a document type or an entity, or is nested too deep.
    """
    where, root = f"annotations: {file}", Element("", 0)
    open_elements = [root]
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(open_elements) > DEEPEST:
            raise ValueError(f"{where}, line {parser.CurrentLineNumber}: elements are nested deeper than {DEEPEST}")
        element = Element(name, parser.CurrentLineNumber)
        open_elements[-1].inside.append(element)
        open_elements.append(element)

    def end(name: str) -> None:
        open_elements.pop()

    def text(data: str) -> None:
        open_elements[-1].text += data

    def refuse(*declared: object) -> int:
        raise ValueError(f"{where}, line {parser.CurrentLineNumber}: document types and entities are not read")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(file.read_bytes(), True)
    except expat.ExpatError as error:
        raise ValueError(f"{where} is not XML: {error}") from error
    return root.inside[0]


def _image(tree: Element, file: Path) -> tuple[str, Size | None]:
    where = f"annotations: {file}"
    if tree.name != "annotation":
        raise ValueError(f"{where}, line {tree.line}: must begin with <annotation>, got <{tree.name}>")
    name = _text(tree, "filename", where)
    if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{where}: <filename> must be a file in the folder of images, got {short_repr(name)}")
    size = tree.first("size")
    if size is None:
        return name, None
    height, width = (_whole(size, side, f"{where}: <size>") for side in ("height", "width"))
    return name, (height, width) if height and width else None  # some tools write 0 where they do not know


def _objects(tree: Element, file: Path) -> list[VocObject]:
    objects = []
    for element in tree.all("object"):
        where = f"annotations: {file}, line {element.line}: <object>"
        box = element.first("bndbox")
        if box is None:
            raise ValueError(f"{where} must have <bndbox>, got none")
        left, top, right, bottom = (
            number(_text(box, corner, where), f"{where}: <{corner}>") for corner in ("xmin", "ymin", "xmax", "ymax")
        )
        if right < left or bottom < top:
            corners = f"{left:g}, {top:g}, {right:g}, {bottom:g}"
            raise ValueError(f"{where}: <bndbox> must have xmin <= xmax and ymin <= ymax, got {corners}")
        difficult = element.first("difficult") is not None and _whole(element, "difficult", where) == 1
        objects.append(VocObject(_text(element, "name", where), (left, top, right, bottom), difficult, where))
    return objects


def _first_pixel(objects: Sequence[VocObject]) -> int:
    """1, as VOC counts pixels; 0 where a corner says otherwise."""
    zero = next((one for one in objects if min(one.corners) < 1), None)
    if zero is None:
        return 1
    if min(zero.corners) < 0:
        raise ValueError(f"{zero.where}: <bndbox> must lie in the image, got {zero.corners}")
    log.warning("%s: a corner below 1: these files count pixels from 0, unlike VOC's own, and are read so", zero.where)
    return 0


def _text(element: Element, name: str, where: str) -> str:
    found = element.all(name)
    if len(found) != 1 or not found[0].text.strip():
        raise ValueError(f"{where}, line {element.line}: must have one <{name}> with a text, got {len(found)}")
    return found[0].text.strip()


def _whole(element: Element, name: str, where: str) -> int:
    value = number(_text(element, name, where), f"{where}: <{name}>")
    if value < 0 or value != int(value):
        raise ValueError(f"{where}: <{name}> must be a whole number from 0, got {value:g}")
    return int(value)
