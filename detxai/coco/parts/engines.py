"""Where the detector runs: in this process, or spread over others; the stages and their files are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from detxai.coco.parts.maker import PartMaker
from detxai.coco.parts.plan import Part
from detxai.coco.parts.prediction_chunks import PredictionChunks
from detxai.data.image_files import ImageFile


class Engine(Protocol):
    """What runs the detector on the images of a run, one stage after the other."""

    def make_chunks(self, chunks: PredictionChunks, files: Sequence[ImageFile], first: int) -> Iterator[int]:
        """Make every chunk of predictions that is missing; yields, as they are done, how many images each has.

        Raises:
            AllFailedError: the first images all failed, or all there are; then no chunk of them is kept.
        """
        ...

    def make_parts(self, maker: PartMaker, parts: Sequence[Part], tick: Callable[[int], object]) -> None:
        """Make these parts of the dataset; ``tick`` is called with the number of boxes that are done.

        Raises:
            AllFailedError: the first images all failed; then no part of them is kept.
            WriteError: a part cannot be written; those that are there are whole.
        """
        ...

    def close(self) -> None:
        """Give back what was used."""
        ...


class LocalEngine:
    """This process alone."""

    def make_chunks(self, chunks: PredictionChunks, files: Sequence[ImageFile], first: int) -> Iterator[int]:
        return chunks.make(files, first)

    def make_parts(self, maker: PartMaker, parts: Sequence[Part], tick: Callable[[int], object]) -> None:
        maker.make(parts, tick)

    def close(self) -> None:
        """Nothing is to be given back."""
