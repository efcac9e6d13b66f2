"""Score-CAM: how much of the box is left where only what one channel lights up is shown?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector, Inputs
from detxai.adapters.network import require_network
from detxai.detections import Detections
from detxai.engine.batching import check_batch_size, images_at_once, in_batches
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.best_slice import on_best_slice
from detxai.methods.checks import check_target
from detxai.methods.from_grad_cam.formulas import join_levels
from detxai.methods.results import explanations
from detxai.progress import progress_bar
from detxai.targets import ClassScoreTarget, Target, ask_about, score_targets


@dataclass(frozen=True)
class ScoreCAM:
    """Each channel weighed by the score that the box has when only what lights up the channel is shown.

    A channel, enlarged to the model's input and scaled to [0, 1], multiplies that input: what is hidden fades to 0,
    which is black to a YOLO and the training images' mean colour to torchvision's detectors. With y_c the score of the
    box that is left, ``w = softmax(y)`` over the channels of a level, and ``values = sum_c w_c A_c``; several levels:
    see ``detxai.methods.from_grad_cam.formulas.join_levels``.

    It takes one pass of the whole detector for each channel: 448 for a YOLOv8n, 1,280 for a Faster R-CNN with an FPN.

    The scores of a detector lie in [0, 1], so the softmax makes all weights nearly alike. The map is then close to the
    mean feature, and nearly the same for every box. grad-cam's Score-CAM has the same weakness; it does not show with
    the logits of a classifier, which differ more.

    Args:
        layers: names of the layers; default: those that the adapter chooses.
        target: the question about a box: a function from its box and label to a target.
        batch_size: masked images at once; None: as many as fit on the device.
        progress: whether to show a progress bar; None: only in a terminal.

    Source: Wang et al., 2020, Score-CAM (CVPR workshops), as grad-cam's ``ScoreCAM`` has it, of which this is the
    formula. Differs in that one masked image serves all boxes, in batches that fit the device; grad-cam makes all
    channels' images at once, anew for each box.
    """

    name: ClassVar[str] = "score_cam"
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "network"
    passes: ClassVar[str] = "1 pass for each channel of the layers, shared by all boxes"

    layers: Sequence[str] | str | None = None
    target: Callable[[Any, int], Target] = ClassScoreTarget
    batch_size: int | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_target(self.target)
        check_batch_size(self.batch_size)

    @in_full_precision
    @on_best_slice
    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection.

        Raises:
            ValueError: a label is wrong.
            LookupError: a layer is unknown.
            TypeError: the detector is a plain function, without a network.
        """
        detector = require_network(detector)
        names = detector.layer_names(self.layers)
        started = time.perf_counter()
        if len(detections) == 0:
            return []
        features = detector.features(image, names)
        targets, levels = ask_about(detections, self.target), features.levels.values()
        n_channels = sum(level.shape[1] for level in levels)
        with detector.borrowed(), torch.no_grad(), progress_bar(self.progress, n_channels, "masking", "channel") as bar:
            by_level = [self._maps(detector, features.inputs, level, targets, bar) for level in levels]
        (geometry,) = features.inputs.geometries
        values = [join_levels(list(maps), geometry) for maps in zip(*by_level, strict=True)]
        return explanations(
            self, detector, features.inputs, detections, values,
            started=started, passes=1 + n_channels, layers=features.layers,
        )  # fmt: skip

    def _maps(self, detector: Detector, inputs: Inputs, level: Tensor, targets: Sequence[Target], bar: tqdm) -> Tensor:
        """(T, h, w) of one level (1, C, h, w)."""

        def score(channels: Tensor) -> Tensor:
            shown = inputs.tensor * _masks(level[0, channels], inputs.tensor.shape[-2:])[:, None]
            return score_targets(targets, detector.candidates(inputs.with_tensor(shown)))

        scores = []
        size = self.batch_size or images_at_once(inputs.tensor)
        for channels, answers in in_batches(torch.arange(level.shape[1], device=level.device), size, score):
            scores.append(answers.float())
            bar.update(len(channels))
        weights = torch.cat(scores, 1).softmax(1)
        return torch.einsum("tc,chw->thw", weights.to(level.dtype), level[0])


def _masks(channels: Tensor, size: Sequence[int]) -> Tensor:
    """(B, height, width) in [0, 1], from (B, h, w): enlarged, corner to corner as grad-cam does, and scaled."""
    enlarged = F.interpolate(channels[:, None], size=tuple(size), mode="bilinear", align_corners=True)[:, 0]
    least, most = enlarged.amin((1, 2), keepdim=True), enlarged.amax((1, 2), keepdim=True)
    return (enlarged - least) / (most - least + 1e-8)
