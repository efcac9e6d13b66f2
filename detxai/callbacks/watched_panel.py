"""The panel as training goes on: which image is next, and how each box's map has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.callbacks.panel import PanelImage, boxes_to_explain
from detxai.callbacks.snapshot import BoxSnapshot, expect_whole, measures_of, small
from detxai.detections import Detections
from detxai.explain import Method, explain


class WatchedPanel:
    """The images of a panel, each in its turn where time does not reach to all of them.

    Args:
        panel: the images.
        method: explains their boxes.
        most_objects: boxes explained on an image.
        score_threshold: of the detections, where objects are not known.
    """

    def __init__(self, panel: Sequence[PanelImage], method: Method, most_objects: int, score_threshold: float) -> None:
        self._panel = tuple(panel)
        self._method = method
        self._most_objects = most_objects
        self._score_threshold = score_threshold
        self._turn = 0
        self._only_first = False
        self._pending = self._panel
        self._before: dict[tuple[str, int], tuple[Detections, Tensor]] = {}

    @property
    def pending(self) -> tuple[PanelImage, ...]:
        """Those not explained since the last ``new_weights``."""
        return self._pending

    def new_weights(self) -> None:
        """The detector has changed: every image is pending again."""
        self._pending = self._panel

    def another_run(self) -> None:
        """Forget the maps so far: those of another training are no earlier epoch of this one."""
        self._before = {}

    def in_turn(self) -> Iterator[PanelImage]:
        """The panel: the first image first, so that its strip is whole, the others in turn.

        Where the budget reaches no further than the first image, the others come first the next time.
        """
        first, others = self._panel[:1], self._panel[1:]
        turned = others[self._turn :] + others[: self._turn]
        for place, item in enumerate(turned + first if self._only_first else first + turned):
            self._only_first = place == 0 and item is first[0] and bool(others)
            if item is not first[0]:
                self._turn = (self._turn + 1) % len(others)
            yield item

    def explain(self, item: PanelImage, detector: Detector) -> list[BoxSnapshot]:
        """Explain the boxes of one image."""
        boxes = boxes_to_explain(detector, item, most=self._most_objects, score_threshold=self._score_threshold)
        explanations = explain(detector, item.pixels, self._method, boxes) if len(boxes) else []
        expect_whole(explanations)
        self._pending = tuple(one for one in self._pending if one is not item)
        explanations *= len(boxes) if not self._method.asks_about_boxes else 1
        snapshots = []
        for place, explanation in enumerate(explanations):
            evidence = None if item.evidence is None else torch.as_tensor(item.evidence)[place]
            before = self._before.get((item.name, place))
            measures = measures_of(explanation, boxes[place], evidence, before)
            snapshots.append(BoxSnapshot(item.name, place, boxes[place], explanation, measures))
            self._before[item.name, place] = boxes[place], small(explanation.values)
        return snapshots
