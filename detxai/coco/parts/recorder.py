"""Maps packed, measured and written while the detector is at the next image."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from detxai.coco.folder import CocoFolder
from detxai.coco.parts.image_explainer import ImageResult, Row
from detxai.coco.parts.packing import in_order, packed_rows

MAX_PENDING = 4  # results that may wait to be recorded: bounds the memory they hold


class Recorder:
    """One thread that records results in their order, part by part.

    Args:
        folder: of the run.
        map_stride: image pixels to a stored one, where results have no cells.
    """

    def __init__(self, folder: CocoFolder, map_stride: int) -> None:
        self.folder, self.map_stride = folder, map_stride
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="detxai-recorder")
        self._waiting: deque[Future[None]] = deque()
        self._broken = False
        self._rows: list[Row] = []
        self._failures: list[Row] = []

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)  # also after Ctrl-C: a part that is complete may wait to be written
        for waiting in self._waiting if error is None else ():
            waiting.result()

    def take(self, result: ImageResult) -> None:
        """The next result of the part. Waits where too many are not recorded yet.

        Raises:
            WriteError: an earlier one could not be written.
        """
        self._do(self._record, result)

    def finish(self, number: int) -> None:
        """The part is complete: write it."""
        self._do(self._write, number)

    def _do(self, what: Callable[[Any], None], argument: Any) -> None:
        while len(self._waiting) >= MAX_PENDING:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._unless_broken, what, argument))

    def _unless_broken(self, what: Callable[[Any], None], argument: Any) -> None:
        if self._broken:
            return  # rows of a part that could not be written must not end up in the next
        try:
            what(argument)
        except BaseException:
            self._broken = True
            raise

    def _record(self, result: ImageResult) -> None:
        self._rows += result.reused
        self._rows += packed_rows(result, self.map_stride)
        self._failures += result.failures

    def _write(self, number: int) -> None:
        self.folder.write_part(number, in_order(self._rows), self._failures)
        self._rows, self._failures = [], []
