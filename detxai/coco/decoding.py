"""Images decoded ahead of the device, in order, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from detxai.images import load_image, to_uint8

AHEAD = 4  # images that a worker holds ready


@dataclass(frozen=True)
class ImageFile:
    """One image of the annotation file.

    Attributes:
        image_id: its id.
        file_name: as in the annotation file.
        path: where it lies.
        size: (height, width) that the annotation file claims; None where it does not say.
    """

    image_id: int
    file_name: str
    path: str
    size: tuple[int, int] | None = None

    @classmethod
    def of(cls, record: dict[str, Any], folder: Path) -> ImageFile:
        size = (record["height"], record["width"]) if {"height", "width"} <= set(record) else None
        return cls(record["id"], record["file_name"], str(folder / record["file_name"]), size)

    def read(self) -> npt.NDArray[np.uint8]:
        """The image, (height, width, 3) uint8.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it cannot be read as an image, or its size is not the one annotated.
        """
        array = to_uint8(load_image(self.path))
        if self.size is not None and array.shape[:2] != self.size:
            raise ValueError(
                f"image: {self.path} is {array.shape[1]} x {array.shape[0]} pixels, but the annotation file says "
                f"{self.size[1]} x {self.size[0]}: its boxes are of another picture"
            )
        return array


class _Files(Dataset[tuple[Any, str]]):
    def __init__(self, files: Sequence[ImageFile]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        try:
            return self.files[index].read(), ""
        except Exception as error:  # whatever is wrong with a file, it is told in the main process
            return None, f"{type(error).__name__}: {error}"


def decoded(files: Sequence[ImageFile], workers: int = 0) -> Iterator[tuple[ImageFile, npt.NDArray[np.uint8] | str]]:
    """Each image in its order, or what is wrong with it.

    Args:
        files: the images.
        workers: processes that decode ahead; 0: this one does, one image when it is asked for. Memory holds at most
            ``workers * AHEAD`` images however many there are. Workers end with this process, also when it is killed.
    """
    there = _Files(files)
    read: Iterable[tuple[Any, str]] = (there[index] for index in range(len(files)))
    if workers:
        read = DataLoader(
            there,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=AHEAD,
            generator=torch.Generator(),  # else the loader would draw from the user's random state
        )
    for file, (array, problem) in zip(files, read, strict=True):
        yield file, problem if array is None else np.asarray(array)
