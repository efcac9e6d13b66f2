"""Ablation-CAM: how much of the box's score is lost without each channel."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector, Features, Inputs
from detxai.adapters.network import NetworkDetector, require_network
from detxai.detections import Detections
from detxai.engine.ablation.channels import (
    Channels,
    Fill,
    Ranking,
    all_levels,
    distance_to_fill,
    fill_values,
    n_to_ablate,
    order_channels,
    predicted_drops,
)
from detxai.engine.ablation.loop import AblatedScores, ablate
from detxai.engine.ablation.tail import Tail
from detxai.engine.ablation.tails import tail_of_groups, warn_once
from detxai.engine.batching import check_batch_size
from detxai.engine.precision import autocast, check_precision
from detxai.engine.rank_correlation import rank_correlation
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.best_slice import on_best_slice
from detxai.methods.checks import check_choice, check_flag, check_fraction, check_target
from detxai.methods.results import explanations
from detxai.progress import progress_bar
from detxai.targets import ClassScoreTarget, Target, ask_about

UnablatedWeights = Literal["tracked", "first_order", "zero"]
CHECK_EVERY = 0.05  # share of the channels from one check of the fidelity to the next


@dataclass(frozen=True, eq=False)
class _Request:
    """What is ablated, and which targets are asked about it.

    Attributes:
        groups: features of the image; a change in one group of layers runs on through the others.
        tail: behind them, for these targets.
        fill: (C,) what ablated channels are set to.
    """

    detector: NetworkDetector
    groups: Sequence[Features]
    targets: Sequence[Target]
    tail: Tail
    fill: Tensor

    @cached_property
    def features(self) -> Features:
        return all_levels(self.groups)

    @cached_property
    def channels(self) -> Channels:
        return Channels.from_features(self.features)

    @property
    def every_channel(self) -> Tensor:
        """(C,) all channel numbers."""
        return torch.arange(len(self.channels), device=self.fill.device)


@dataclass(frozen=True)
class AblationCAM:
    """Each channel weighed by the share of the box's score that is lost without it.

    ``alpha_c = (y - y_c) / |y|`` with y the target's score and y_c the score with channel c set to ``fill``;
    ``values = sum over levels of sum_c alpha_c A_c``, each level brought to the image at its own resolution. The
    heatmap is the positive part; negative values are evidence against the box.

    One ablation serves all detections of the image. It recomputes only what the channel can change, and its scores
    equal, to rounding, those of a full pass in which a hook sets that channel. A network that was changed by hooks,
    patches or custom layers is recomputed in full behind the layers; ``details["tail"]`` says why.

    Args:
        ratio_channels_to_ablate: r in (0, 1]: exactly ``ceil(r * C)`` channels are ablated, those expected to matter
            most to these detections; ``unablated_weights`` says what the others weigh.
        batch_size: ablations at once; None: what fits the device.
        target: the question about a box: a function from its box and label to a target.
        layers: names of the layers; default: those that the adapter chooses.
        propagate: for layers that read one another (on a YOLO, model.18 and model.21 read model.15). False: the outputs
            of the others stay as they are, so a drop is what is lost on the direct path to the head. True: the change
            runs on through the others, as in a network without the channel; everything behind each layer is then
            recomputed. On 31 boxes of yolov8n in 12 photos of COCO, insertion minus deletion was .033 of the clean
            score higher with True (standard error .017): too little to make the slower way the default.
        fill: what an ablated channel is set to: ``"zero"`` (the paper), a number, or its own ``"mean"``. With
            ``"mean"`` the map shows A_c less its mean, which is what the ablation takes away. Zero or a number shows
            A_c itself, as grad-cam does; where a channel does not rest at zero, the background then shows too.
        ranking: which channels are expected to matter most. ``"tracked"``: for each target, follow the one candidate
            that answers it now through every ablation; this costs a small part of an exact ablation. ``"first_order"``:
            one backward pass. ``"energy"``: how far a channel is from its fill, without gradients. Or a callable from
            ``Features`` to (C,) numbers, the largest first. If no candidate can be tracked and ``unablated_weights`` is
            not ``"tracked"``, then ``"tracked"`` means ``"first_order"``, or ``"energy"`` without gradients.
        unablated_weights: what channels weigh that were not ablated: their ``"tracked"`` drop, their ``"first_order"``
            drop (one backward pass for each detection), or ``"zero"``. With ``"tracked"``, a tenth of the channels
            gives the map of all (BENCHMARKS.md). If no candidate can be tracked (a full tail, or a target that may read
            any candidate), ``"tracked"`` ablates every channel, which takes as long as a ratio of 1 and is logged.
            ``"first_order"`` and ``"zero"`` keep to the ratio there, for a rougher map.
        fidelity: in (0, 1): stop when every map has at least this rank correlation with the map of a twentieth of the
            channels fewer, and at the ratio in any case; None: ablate as many as the ratio says.
        margin: in (0, 1), for two-stage detectors: an ablation scores only those proposals again that reached
            ``1 - margin`` of the best remaining score in the clean pass. With 0.5 an ablation costs half, and every map
            measured had a rank correlation of at least 0.995 with the exact one (BENCHMARKS.md). None: every proposal
            that can answer the target is scored, which is exact. One-stage detectors are exact at the same cost.
        precision: ``"full"`` (the model's own), ``"bf16"`` or ``"fp16"`` autocast. Only the layers up to the ablated
            ones run in half precision, because a drop is often smaller than its rounding error.
        channels_last: whether the model gets its image in the channels-last memory format, with which some devices are
            faster in half precision.
        progress: whether to show a progress bar; None: only in a terminal.

    Source: Desai & Ramaswamy, 2020, Ablation-CAM (WACV). Differs in dividing by ``|y|`` (a score below zero keeps its
    sign; a score of zero is not divided by: the drop itself weighs), in several levels, and in the signed map.
    """

    name: ClassVar[str] = "ablation_cam"
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "network"
    passes: ClassVar[str] = "1 pass, and a part of a pass for each channel; shared by all boxes"

    ratio_channels_to_ablate: float = 1.0
    batch_size: int | None = None
    target: Callable[[Any, int], Target] = ClassScoreTarget
    layers: Sequence[str] | str | None = None
    propagate: bool = False
    fill: Fill = "zero"
    ranking: Ranking = "tracked"
    unablated_weights: UnablatedWeights = "tracked"
    fidelity: float | None = None
    margin: float | None = None
    precision: str = "full"
    channels_last: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_fraction("ratio_channels_to_ablate", self.ratio_channels_to_ablate, "(0, 1]")
        check_batch_size(self.batch_size)
        if self.fidelity is not None and not 0 < self.fidelity < 1:
            raise ValueError(f"fidelity must be a rank correlation in (0, 1), or None, got {self.fidelity}")
        if self.margin is not None and not 0 < self.margin < 1:
            raise ValueError(f"margin must be a share of the best score in (0, 1), or None, got {self.margin}")
        check_choice("unablated_weights", self.unablated_weights, get_args(UnablatedWeights))
        check_flag("propagate", self.propagate)
        check_target(self.target)
        check_precision(self.precision)

    @in_full_precision
    @on_best_slice
    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection, with ``channel_effects`` (C,): the drop y - y_c.

        ``details["tail"]`` says what each ablation recomputes: ``kind``, and for a full tail the ``reason``.

        Raises:
            ValueError: a setting or a label is wrong.
            LookupError: a layer is unknown.
        """
        started = time.perf_counter()
        detector = require_network(detector)
        groups = self._features(detector, image)
        if len(detections) == 0:
            return []
        features = all_levels(groups)
        targets = ask_about(detections, self.target)
        with detector.borrowed(), torch.no_grad():
            tail = tail_of_groups(detector, groups, targets)
            scores = self._scores(_Request(detector, groups, targets, tail, fill_values(features, self.fill)))
        return explanations(
            self, detector, features.inputs, detections, combine_levels(self._shown(features), channel_weights(scores)),
            started=started, passes=len(groups) + scores.passes, layers=features.layers,
            details={"tail": dict(tail.details)}, channel_effects=scores.drops,
        )  # fmt: skip

    def _features(self, detector: NetworkDetector, image: Image | Features) -> list[Features]:
        """Of the image, in the model's own precision, whatever they were computed in; a group that is held together."""
        names = detector.layer_names(self.layers)
        inputs: Inputs | Features = image if isinstance(image, Features) else detector.prepare_one(image)
        if self.channels_last:
            inputs = detector.prepare_one(inputs)
            inputs = replace(inputs, tensor=inputs.tensor.contiguous(memory_format=torch.channels_last))
        groups = []
        for group in [(name,) for name in names] if self.propagate else [names]:
            with autocast(detector.device, self.precision):
                features = detector.features(inputs, group)
            levels = features.levels
            if self.precision != "full":
                levels = {name: level.to(detector.dtype) for name, level in levels.items()}
            groups.append(features.with_levels({name: level.contiguous() for name, level in levels.items()}))
        return groups

    def _shown(self, features: Features) -> Features:
        if self.fill != "mean":
            return features
        return features.with_levels(distance_to_fill(features, fill_values(features, self.fill)))

    def _scores(self, request: _Request) -> AblatedScores:
        n_channels = len(request.channels)
        n = n_to_ablate(self.ratio_channels_to_ablate, n_channels)
        if n == n_channels and self.fidelity is None:
            scores, order = AblatedScores.unknown(request.tail, n_channels), request.every_channel
        else:
            approximate, is_exact = self._approximate(request)
            order, predicted = self._expected(request, approximate)
            scores = AblatedScores.unknown(request.tail, n_channels, predicted)
            if approximate is not None and is_exact:
                scores.ablated[:, order[:n]] = approximate.ablated[:, order[:n]]
                scores.passes = approximate.passes
                return scores
        self._ablate_in_order(request, order[:n], scores)
        return scores

    def _ablate_in_order(self, request: _Request, order: Tensor, scores: AblatedScores) -> None:
        """Ablate these channels (n,), or as many of them as it takes until the maps change no more."""
        tail = request.tail if self.margin is None else request.tail.screened(self.margin)
        size = len(order) if self.fidelity is None else max(1, round(CHECK_EVERY * len(request.channels)))
        with progress_bar(self.progress, len(order), "ablating", "channel") as bar:
            for part in order.split(size):
                before = scores.ablated.clone()
                ablate(tail, request.channels, part, request.fill, scores, batch_size=self.batch_size, bar=bar)
                if self.fidelity is not None and self._settled(request.features, before, scores):
                    break

    def _approximate(self, request: _Request) -> tuple[AblatedScores | None, bool]:
        """Every channel ablated, for the candidates that answer the targets now; and whether these are all there are.

        None where neither the ranking nor the unablated channels need it.
        """
        tail = request.tail.approximate() if "tracked" in (self.ranking, self.unablated_weights) else None
        if tail is not None:
            return self._ablate_all(request, tail), False
        if self.unablated_weights != "tracked":
            return None, False
        reason = request.tail.details.get("reason", "the target may read any candidate")
        warn_once(
            request.detector,
            f"no candidate can be tracked by itself ({reason}): Ablation-CAM ablates all {len(request.channels)} "
            "channels, whatever ratio_channels_to_ablate is; with unablated_weights='first_order' or 'zero' it keeps "
            "to the ratio, for a rougher map",
        )
        return self._ablate_all(request, request.tail), True

    def _ablate_all(self, request: _Request, tail: Tail) -> AblatedScores:
        scores = AblatedScores.unknown(tail, len(request.channels))
        every = request.every_channel
        with progress_bar(self.progress, len(every), "tracking", "channel") as bar:
            ablate(tail, request.channels, every, request.fill, scores, batch_size=self.batch_size, bar=bar)
        return scores

    def _expected(self, request: _Request, approximate: AblatedScores | None) -> tuple[Tensor, Tensor | None]:
        """All channel numbers (C,), those expected to matter most first; the drops (T, C) predicted for the others."""
        given = (request.detector, request.groups, request.targets, request.fill)
        if self.ranking == "tracked" and approximate is not None:
            order = channel_weights(approximate).abs().sum(0).argsort(descending=True, stable=True)
        else:
            order = order_channels(*given, self.ranking)
        if self.unablated_weights == "first_order":
            return order, predicted_drops(*given)
        return order, None if approximate is None or self.unablated_weights == "zero" else approximate.drops

    def _settled(self, features: Features, before: Tensor, after: AblatedScores) -> bool:
        if after.predicted is None and bool(before.isnan().all()):
            return False
        earlier = combine_levels(features, channel_weights(replace(after, ablated=before)))
        now = combine_levels(features, channel_weights(after))
        return bool((rank_correlation(earlier, now) >= (self.fidelity or 0)).all())


def channel_weights(scores: AblatedScores) -> Tensor:
    """(T, C) ``(y - y_c) / |y|``, the drop itself where y = 0; the predicted drop, or 0, where not ablated."""
    otherwise = torch.zeros_like(scores.ablated) if scores.predicted is None else scores.predicted
    drops = torch.where(scores.ablated.isnan(), otherwise.to(scores.ablated.dtype), scores.drops)
    scale = torch.where(scores.clean == 0, 1, scores.clean.abs())
    return drops / scale[:, None]


def combine_levels(features: Features, weights: Tensor) -> Tensor:
    """The maps (T, H, W) in image pixels: sum over levels and channels of weight times feature."""
    geometry = features.inputs.geometries[0]
    split = Channels.from_features(features).split(weights)
    total = [
        geometry.map_to_image(torch.einsum("tc,chw->thw", split[name].to(level.dtype), level[0]))
        for name, level in features.levels.items()
    ]
    return torch.stack(total).sum(0).float()
