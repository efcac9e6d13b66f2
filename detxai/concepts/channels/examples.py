"""The patches of a data set that excite a channel most."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from detxai.adapters.detector import Detector, Inputs
from detxai.adapters.network import NetworkDetector, require_network
from detxai.concepts.channels.layer_pass import Channel, check_channels, levels_of
from detxai.concepts.channels.receptive_field import ReceptiveField, receptive_field
from detxai.data.image_files import ImageFile, decoded
from detxai.data.readers.annotated_images import expect_images, image_names
from detxai.geometry import Geometry
from detxai.progress import progress_bar
from detxai.runs.failures import FailureGuard, expect_item_failure, reason, release_tensors


@dataclass(frozen=True, order=True)
class Example:
    """Where an image excites a channel most.

    Attributes:
        value: of the channel there.
        file_name: of the image, within its folder.
        cell: (row, column) of the level.
        centre: (x, y) of that cell, pixels of the image.
        field: its receptive field in this image; None: the value does not depend on the image.
    """

    value: float
    file_name: str
    cell: tuple[int, int]
    centre: tuple[float, float]
    field: ReceptiveField | None = None


@dataclass(frozen=True)
class Examples:
    """What a folder of images holds for some channels.

    Attributes:
        by_channel: the strongest examples of each channel, strongest first, one an image at most.
        n_images: how many images were read.
        failures: file name -> why it was skipped.
    """

    by_channel: dict[Channel, list[Example]]
    n_images: int
    failures: dict[str, str]


def images_in(folder: Path) -> list[ImageFile]:
    """The images of a folder and the folders in it, by name.

    Raises:
        ValueError: there is none.
    """
    names = image_names(folder, folder)
    expect_images(names, f"images: {folder}")
    return [ImageFile(number, name, str(folder / name)) for number, name in enumerate(names)]


def strongest_examples(
    detector: Detector,
    files: Sequence[ImageFile],
    channels: Sequence[Channel],
    layers: Sequence[str],
    *,
    n: int = 6,
    progress: bool | None = None,
) -> Examples:
    """The images that excite each channel most, where, and what the value there reads.

    One image is held at a time, whatever their number; of each image and channel the strongest place counts.

    Args:
        detector: a network.
        files: the images.
        channels: whose levels ``layers`` put out.
        layers: names of layers.
        n: examples of each channel.
        progress: a bar; None: where standard error is a terminal.

    Raises:
        LookupError: an unknown layer or channel.
        AllFailedError: the first images all failed.
        TypeError: the detector is a black box.
    """
    network = require_network(detector)
    kept: dict[Channel, list[Example]] = {channel: [] for channel in channels}

    def ask(file: ImageFile, array: npt.NDArray[np.uint8]) -> None:
        inputs = network.prepare_one(array)
        with torch.no_grad():
            levels = levels_of(network, inputs, layers)
            check_channels(channels, levels)
        for channel in channels:
            values = levels[channel.level][0, channel.number]
            place = int(values.argmax())
            cell = (place // values.shape[1], place % values.shape[1])
            centre = cell_centre(inputs.geometries[0], (values.shape[0], values.shape[1]), cell)
            example = Example(float(values[cell]), file.file_name, cell, centre)
            (heapq.heappush if len(kept[channel]) < n else heapq.heappushpop)(kept[channel], example)

    failures = for_each_image(files, ask, "looking for examples", progress)
    by_name = {file.file_name: file for file in files}
    with progress_bar(progress, sum(map(len, kept.values())), "measuring receptive fields", "field") as bar:
        found: dict[Channel, list[Example]] = {}
        for channel, examples in kept.items():
            found[channel] = []
            for example in sorted(examples, reverse=True):
                found[channel].append(_with_field(network, by_name[example.file_name], layers, channel, example))
                bar.update()
    return Examples(found, len(files) - len(failures), failures)


def for_each_image(
    files: Sequence[ImageFile],
    work: Callable[[ImageFile, npt.NDArray[np.uint8]], None],
    doing: str,
    progress: bool | None = None,
) -> dict[str, str]:
    """Do ``work`` on each image; what failed is skipped: file name -> why.

    Raises:
        AllFailedError: the first images all failed.
        LookupError: of ``work``: the request is at fault, not an image.
    """
    failures: dict[str, str] = {}
    guard = FailureGuard()
    with progress_bar(progress, len(files), doing, "image") as bar:
        for file, array in decoded(files):
            try:
                if isinstance(array, str):
                    raise ValueError(array)
                work(file, array)
                guard.succeeded()
            except LookupError:
                raise
            except Exception as error:
                expect_item_failure(error)
                failures[file.file_name] = array if isinstance(array, str) else reason(error)
                release_tensors(error)
                guard.failed(f"{file.file_name}: {failures[file.file_name]}")
            bar.update()
    if len(failures) == len(files):
        raise ValueError(f"images: none of {len(files)} could be read; the first: {next(iter(failures.values()))}")
    return failures


def cell_centre(geometry: Geometry, n_cells: tuple[int, int], cell: tuple[int, int]) -> tuple[float, float]:
    """(x, y) in pixels of the image, within it: where the level's cell (row, column) lies."""
    values = torch.zeros(*n_cells, dtype=torch.float64)
    values[cell] = 1
    on_image = geometry.map_to_image(values)
    place = int(on_image.argmax())
    return float(place % on_image.shape[1]) + 0.5, float(place // on_image.shape[1]) + 0.5


def _with_field(
    detector: NetworkDetector, file: ImageFile, layers: Sequence[str], channel: Channel, example: Example
) -> Example:
    inputs: Inputs = detector.prepare_one(file.read())
    field = receptive_field(detector, inputs, layers, channel, example.cell)
    return Example(example.value, example.file_name, example.cell, example.centre, field)
