"""The tail of a detector: everything behind the ablated levels, and the scores it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from detxai.engine.batching import MAX_BATCH_CPU


class Tail(ABC):
    """What is left of a detector behind the ablated levels of one image, asked about T targets.

    Attributes:
        details: ``kind``, which tail it is; ``reason``, why it is no quicker one, where that is worth saying.
        clean: (T,) the targets' scores without any ablation.
        cpu_batch: ablations at once past which a CPU gains nothing.
    """

    details: Mapping[str, str]
    clean: Tensor
    cpu_batch: int = MAX_BATCH_CPU

    @abstractmethod
    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        """(T, B): the targets' scores with one channel of ``level`` set to a value, for each of B channels."""

    @abstractmethod
    def bytes_per_item(self, level: str) -> int:
        """About how much memory one ablation of a batch takes."""

    def approximate(self) -> Tail | None:
        """A cheap tail that follows only the candidates by which the targets are answered now; None: there is none."""
        return None

    def screened(self, margin: float) -> Tail:
        """The tail that scores only moved proposals expected within ``margin`` of the best; itself where none moves."""
        return self
