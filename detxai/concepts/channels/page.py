"""The page of ``detxai concepts channels``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image

from detxai.concepts.channels.examples import Example
from detxai.concepts.channels.study import ChannelStudy, ShownChannel
from detxai.data.image_files import ImageFile
from detxai.pages.html import render
from detxai.pages.pictures import data_uri, fitted, outline

SIDE = 160  # of a picture, pixels
CONTEXT = 2.0  # times the receptive field's side: what is shown around it
LEAST = 32  # pixels of the image that a patch shows at the least


@dataclass(frozen=True)
class ChannelRow:
    """A channel on the page: ``(caption, data URI)`` of its pictures."""

    title: str
    effect: float | None
    pictures: Sequence[tuple[str, str]]


def channels_page(study: ChannelStudy, files: Sequence[ImageFile], class_name: str, about: Mapping[str, object]) -> str:
    """The whole document."""
    by_name = {file.file_name: file for file in files}
    rows = [_row(shown, by_name) for shown in study.channels]
    box_picture = None
    if study.box is not None:
        name, detection = study.box
        image = by_name[name].read()
        scale = 2 * SIDE / max(image.shape[:2])
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        box_picture = data_uri(outline(fitted(image, size), detection.boxes[0].tolist(), scale=scale), "PNG")
    kept = None if study.kept is None else [str(channel) for channel in study.kept.channels]
    return render(
        "channels.html",
        study=study,
        rows=rows,
        class_name=class_name,
        about=about,
        kept=kept,
        box_picture=box_picture,
        class_picture=data_uri(PIL.Image.fromarray(study.class_picture.image), "PNG"),
    )


def _row(shown: ShownChannel, files: Mapping[str, ImageFile]) -> ChannelRow:
    optimised = (
        f"optimised: {shown.picture.activation:.3g}",
        data_uri(PIL.Image.fromarray(shown.picture.image), "PNG"),
    )
    patches = [
        (f"{example.value:.3g} in {example.file_name}", data_uri(patch(files[example.file_name], example), "PNG"))
        for example in shown.examples
    ]
    return ChannelRow(str(shown.channel), shown.effect, [optimised, *patches])


def patch(file: ImageFile, example: Example) -> PIL.Image.Image:
    """What surrounds an example in its image, with its receptive field outlined; grey beyond the image's edge."""
    image = file.read()
    x, y = example.centre
    box = (x, y, x, y) if example.field is None else example.field.box
    side = max(LEAST, CONTEXT * max(box[2] - box[0], box[3] - box[1]))
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    left, top = round(middle[0] - side / 2), round(middle[1] - side / 2)
    n = round(side)
    shown = np.full((n, n, 3), 128, dtype=np.uint8)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + n, image.shape[1]), min(top + n, image.shape[0])
    if x2 > x1 and y2 > y1:
        shown[y1 - top : y2 - top, x1 - left : x2 - left] = image[y1:y2, x1:x2]
    picture = fitted(shown, (SIDE, SIDE))
    if example.field is None:
        return picture
    inside = [box[0] - left, box[1] - top, box[2] - left, box[3] - top]
    return outline(picture, inside, scale=SIDE / n)
