"""Images decoded ahead of the device, in order, a bounded number at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from detxai.images import Array, load_image, load_image_bytes, to_uint8
from detxai.runs.remote.address import Address, path_or_address

Pixels = npt.NDArray[np.uint8]

ImageFolder: TypeAlias = "Path | Address"

PREFETCH = 4  # images held ready for each worker


@dataclass(frozen=True)
class ImageFile:
    """One image of the annotation file.

    Attributes:
        image_id: its id.
        file_name: as in the annotation file.
        path: where it lies, or its address (``s3://...``).
        size: (height, width) that the annotation file claims; None where it does not say.
    """

    image_id: int
    file_name: str
    path: str
    size: tuple[int, int] | None = None

    @classmethod
    def from_record(cls, record: dict[str, Any], folder: ImageFolder) -> ImageFile:
        """Of an entry of the annotation file's ``images``, below ``folder``."""
        size = (record["height"], record["width"]) if {"height", "width"} <= set(record) else None
        return cls(record["id"], record["file_name"], str(folder / record["file_name"]), size)

    def read(self) -> Pixels:
        """The image, (height, width, 3) uint8.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it cannot be read as an image, or its size is not the one annotated.
        """
        array = to_uint8(load_file(path_or_address(self.path)))
        if self.size is not None and array.shape[:2] != self.size:
            raise ValueError(
                f"image: {self.path} is {array.shape[1]} x {array.shape[0]} pixels, but the annotation file says "
                f"{self.size[1]} x {self.size[0]}: its boxes are of another picture"
            )
        return array


def load_file(path: Path | Address) -> Array:
    """The image of a file or at an address; see ``detxai.images.load_image``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read as an image.
        ImportError: what reads such addresses is not installed.
    """
    if isinstance(path, Path):
        return load_image(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image: no such file: {path}") from error
    return load_image_bytes(content, str(path))


def decoded(files: Sequence[ImageFile], workers: int = 0) -> Iterator[tuple[ImageFile, Pixels | str]]:
    """Each image in its order, or what is wrong with it.

    Args:
        files: the images.
        workers: threads that decode ahead (Pillow's decoders run beside Python); 0: this one does, one image when it
            is asked for. Memory holds at most ``workers * PREFETCH`` images however many there are. Threads and not
            processes: where a process starts by importing the script again (macOS, Windows), a script without
            ``if __name__ == "__main__"`` would start anew in each of them.
    """
    if not workers:
        yield from ((file, _read(file)) for file in files)
        return
    waiting: deque[tuple[ImageFile, Future[Pixels | str]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="detxai-decoding")
    try:
        for file in files:
            waiting.append((file, pool.submit(_read, file)))
            if len(waiting) >= workers * PREFETCH:
                first, reading = waiting.popleft()
                yield first, reading.result()
        while waiting:
            first, reading = waiting.popleft()
            yield first, reading.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(file: ImageFile) -> Pixels | str:
    try:
        return file.read()
    except Exception as error:  # what is wrong with one file is recorded with its image, and the others go on
        return f"{type(error).__name__}: {error}"
