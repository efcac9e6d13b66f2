"""The detections whose maps differ most from method to method: the ones worth looking at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from detxai.detections import Detections
from detxai.engine.rank_correlation import rank_correlation
from detxai.evaluate.contestants import BASELINES
from detxai.evaluate.photos.photo import Pixels
from detxai.evaluate.results.records import Record
from detxai.evaluate.results.summary import Summary
from detxai.explanation import Cost, Explanation


@dataclass(frozen=True, eq=False)
class Disagreement:
    """One detection under every method.

    Attributes:
        records: method -> what came of it.
        agreement: mean rank correlation between the methods' maps, in [-1, 1].
    """

    records: Mapping[str, Record]
    agreement: float

    @property
    def first(self) -> Record:
        return next(iter(self.records.values()))

    @property
    def number(self) -> int:
        return self.first.number

    @property
    def image(self) -> str:
        return self.first.image

    @property
    def title(self) -> str:
        return f"{self.first.image}: {self.first.name} {self.first.score:.2f}"

    @property
    def captions(self) -> list[str]:
        return list(self.records)

    def explanations(self, image: Pixels) -> list[Explanation]:
        """The small maps, brought to the image's size again, for the eye."""
        detection = Detections(
            [self.first.box], [self.first.score], [self.first.label], {self.first.label: self.first.name}
        )
        size = image.shape[0], image.shape[1]
        return [
            Explanation(_enlarged(record.small_heatmap, size), image, method, {}, Cost(0.0, 0), detection)
            for method, record in self.records.items()
        ]


def disagreements(summary: Summary, n: int) -> list[Disagreement]:
    """The ``n`` detections whose maps agree least, one an image as far as there are enough images.

    Baselines do not count, unless there is nothing else.
    """
    judged = [method for method in summary.methods if method not in BASELINES]
    judged = judged if len(judged) > 1 else summary.methods
    if len(judged) < 2:
        return []
    order = [total.method for total in summary.totals]
    found = [
        Disagreement(
            {method: by_method[method] for method in order}, _agreement(list(map(by_method.__getitem__, judged)))
        )
        for by_method in summary.detections
    ]
    found.sort(key=lambda one: one.agreement)
    seen: set[int] = set()
    first_of_image: list[Disagreement] = []
    others: list[Disagreement] = []
    for one in found:
        (others if one.number in seen else first_of_image).append(one)
        seen.add(one.number)
    return [*first_of_image, *others][:n]


def _agreement(records: list[Record]) -> float:
    maps = [torch.from_numpy(record.small_heatmap)[None] for record in records]
    return float(np.mean([float(rank_correlation(first, second)) for first, second in combinations(maps, 2)]))


def _enlarged(small: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    values = torch.from_numpy(small)[None, None]
    grown = torch.nn.functional.interpolate(values, size, mode="bilinear", align_corners=False)
    return np.asarray(grown[0, 0].numpy(), dtype=np.float32)
