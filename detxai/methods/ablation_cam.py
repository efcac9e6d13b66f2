"""Ablation-CAM: how much of this box goes away when this channel does?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from tqdm.auto import tqdm

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector, Features, Inputs
from detxai.adapters.network import NetworkDetector, require_network
from detxai.detections import Detections
from detxai.engine.ablation.channels import (
    Channels,
    Fill,
    Ranking,
    distance_to_fill,
    fill_values,
    joined,
    n_to_ablate,
    order_channels,
    predicted_drops,
)
from detxai.engine.ablation.loop import AblatedScores, Tail, ablate, autocast
from detxai.engine.ablation.tails import screened, tail_of_groups, tracked, warn_once
from detxai.engine.batching import check_batch_size
from detxai.engine.ranking import rank_correlation
from detxai.explanation import Cost, Explanation, settings_of
from detxai.images import Image
from detxai.methods.best_slice import on_best_slice
from detxai.progress import hides_bar
from detxai.targets import ClassScoreTarget, Target, ask_about

Rest = Literal["tracked", "first_order", "zero"]
ROUND = 0.05  # share of the channels between two looks at the fidelity


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is ablated, and who is asked about it.

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
        return joined(self.groups)

    @cached_property
    def channels(self) -> Channels:
        return Channels.of(self.features)


@dataclass(frozen=True)
class AblationCAM:
    """Each channel weighed by how much of the box's score goes away without it.

    ``alpha_c = (y - y_c) / |y|`` with y the target's score and y_c the score with channel c set to ``fill``;
    ``values = sum over levels of sum_c alpha_c A_c``, each level brought to the image at its own resolution. The
    heatmap is the positive part; negative values speak against the box.

    Every ablation serves all detections of the image, and recomputes only what the channel can change; the scores
    equal, to rounding, those of a full pass in which a hook sets that channel of that layer. A network that was changed
    (hooks, patches, layers of one's own) is recomputed in full behind the layers; ``details["tail"]`` says why.

    Args:
        ratio_channels_to_ablate: r in (0, 1]: exactly ``ceil(r * C)`` channels are ablated, those expected to matter
            most to these detections; ``rest`` says what the others weigh.
        batch_size: ablations at once; None: what fits the device.
        target: from a detection's box and label to the question asked of it.
        layers: names of the layers; default: the adapter's.
        propagate: where one of ``layers`` reads another (on a YOLO, model.18 and model.21 read model.15): False holds
            the outputs of the others as they were, so that a drop is what goes away along the direct way to the head;
            True lets the change run on through them, as in a network that lost the channel, at the price of
            recomputing all that lies behind each layer. On 31 boxes of yolov8n in 12 photos of COCO, True
            gave .033 more insertion less deletion, as a share of the clean score (standard error .017): too little to
            be the default at that price.
        fill: what an ablated channel is set to: ``"zero"`` (the paper), a number (the map still shows A_c, as
            grad-cam's does), or its own ``"mean"``: the map then shows A_c less that mean, which is what the ablation
            takes away, without the background that comes of where a channel's zero lies.
        ranking: what "expected to matter most" means: ``"tracked"`` (the drop of the candidate that answers each
            target now, followed through every ablation: a small part of an exact one), ``"first_order"`` (one backward
            pass), ``"energy"`` (no gradients), or a callable from ``Features`` to (C,) numbers, larger first. Where
            there is nothing to track and ``rest`` is another, ``"tracked"`` means ``"first_order"``, and ``"energy"``
            without gradients.
        rest: what a channel weighs that was not ablated: the ``"tracked"`` drop, the ``"first_order"`` drop, at the
            price of a backward pass for each detection, or ``"zero"``. Tracked, a tenth of the channels gives the map
            of all (BENCHMARKS.md). Where no candidate can be tracked by itself (a full tail, a target that may read any
            candidate), all of them are, in every ablation: the map is that of all channels and takes as long, which
            the log says; ``"first_order"`` and ``"zero"`` keep to the ratio there, for a rougher map.
        fidelity: in (0, 1): ablate in that order until a further twentieth of the channels leaves every map at
            this rank correlation with what it was, and no more than the ratio allows; None: all that the ratio allows.
        margin: in (0, 1): of the proposals that an ablation moves, only those are looked at that, in the clean pass,
            reached ``1 - margin`` of the best score that is left. With 0.5 an ablation costs half, and every map we
            measured stayed what it was but for a rank correlation of 0.995 (BENCHMARKS.md). None: all within the
            target's reach, exact. For two-stage detectors; one-stage detectors are exact at the same price.
        precision: ``"full"`` (the model's own), ``"bf16"`` or ``"fp16"`` autocast, up to the ablated layers only: a
            drop is often smaller than what half precision rounds off.
        channels_last: give the model its image with the channels last, which some devices convolve faster in half
            precision.
        progress: a bar; None: where standard error is a terminal.

    Source: Desai & Ramaswamy, 2020, Ablation-CAM (WACV). Differs in dividing by ``|y|`` (a score below zero keeps its
    sign; a score of zero is not divided by: the drop itself weighs), in several levels, and in the signed map.
    """

    name: ClassVar[str] = "ablation_cam"
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "network"
    passes: ClassVar[str] = "1 pass, and a part of one for each channel; shared by all boxes"

    ratio_channels_to_ablate: float = 1.0
    batch_size: int | None = None
    target: Callable[[Any, int], Target] = ClassScoreTarget
    layers: Sequence[str] | str | None = None
    propagate: bool = False
    fill: Fill = "zero"
    ranking: Ranking = "tracked"
    rest: Rest = "tracked"
    fidelity: float | None = None
    margin: float | None = None
    precision: str = "full"
    channels_last: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        if not 0 < self.ratio_channels_to_ablate <= 1:
            raise ValueError(f"ratio_channels_to_ablate must lie in (0, 1], got {self.ratio_channels_to_ablate}")
        check_batch_size(self.batch_size)
        if self.fidelity is not None and not 0 < self.fidelity < 1:
            raise ValueError(f"fidelity must be a rank correlation in (0, 1), or None, got {self.fidelity}")
        if self.margin is not None and not 0 < self.margin < 1:
            raise ValueError(f"margin must be a share of the best score in (0, 1), or None, got {self.margin}")
        if self.rest not in get_args(Rest):
            raise ValueError(f"rest must be one of {list(get_args(Rest))}, got {self.rest!r}")
        if not isinstance(self.propagate, bool):
            raise TypeError(f"propagate must be True or False, got {self.propagate!r}")
        if not callable(self.target):
            raise TypeError(f"target must be callable with a box and a label, got {type(self.target).__name__}")
        autocast(torch.device("cpu"), self.precision)

    @in_full_precision
    @on_best_slice
    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection, with ``channel_effects`` (C,): the drop y - y_c.

        ``details["tail"]`` says what each ablation recomputes: ``kind``, and for a full tail the ``reason``.

        Raises:
            ValueError: a setting or a label is wrong.
            LookupError: a layer is unknown.
        """
        start = time.perf_counter()
        detector = require_network(detector)
        groups = self._features(detector, image)
        if len(detections) == 0:
            return []
        features = joined(groups)
        targets = ask_about(detections, self.target)
        with detector.borrowed(), torch.no_grad():
            tail = tail_of_groups(detector, groups, targets)
            scores = self._scores(_Asked(detector, groups, targets, tail, fill_values(features, self.fill)))
        values = combine_levels(self._shown(features), channel_weights(scores))
        cost = Cost(time.perf_counter() - start, forward_passes=len(groups) + scores.passes)
        model = {**detector.describe(), "layers": list(features.layers)}
        return [
            Explanation(
                values[i].cpu().numpy(),
                features.inputs.images[0],
                self.name,
                settings_of(self),
                cost,
                detections[i],
                scores.drops[i].cpu(),
                model,
                details={"tail": dict(tail.details)},
            )
            for i in range(len(detections))
        ]

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

    def _scores(self, asked: _Asked) -> AblatedScores:
        n_channels = len(asked.channels)
        n = n_to_ablate(self.ratio_channels_to_ablate, n_channels)
        scores = AblatedScores.unknown(asked.tail, n_channels)
        order = torch.arange(n_channels, device=asked.fill.device)
        if n < n_channels or self.fidelity is not None:
            followed, is_exact = self._followed(asked)
            order, scores.predicted = self._expected(asked, followed)
            if followed is not None and is_exact:
                scores.ablated[:, order[:n]] = followed.ablated[:, order[:n]]
                scores.passes = followed.passes
                return scores
        tail = asked.tail if self.margin is None else screened(asked.tail, self.margin)
        with self._bar(n, "ablating") as bar:
            size = n if self.fidelity is None else max(1, round(ROUND * n_channels))
            for part in order[:n].split(size):
                before = scores.ablated.clone()
                ablate(tail, asked.channels, part, asked.fill, scores, batch_size=self.batch_size, bar=bar)
                if self.fidelity is not None and self._settled(asked.features, before, scores):
                    break
        return scores

    def _followed(self, asked: _Asked) -> tuple[AblatedScores | None, bool]:
        """Every channel ablated, of the candidates that answer the targets now; and whether of all there are."""
        follower = tracked(asked.tail) if "tracked" in (self.ranking, self.rest) else None
        if follower is not None:
            return self._follow(asked, follower), False
        if self.rest != "tracked":
            return None, False
        reason = asked.tail.details.get("reason", "the target may read any candidate")
        warn_once(
            asked.detector,
            f"no candidate can be tracked by itself ({reason}): Ablation-CAM ablates all {len(asked.channels)} "
            "channels, whatever ratio_channels_to_ablate says; with rest='first_order' or 'zero' it keeps to the "
            "ratio, for a rougher map",
        )
        return self._follow(asked, asked.tail), True

    def _follow(self, asked: _Asked, follower: Tail) -> AblatedScores:
        scores = AblatedScores.unknown(follower, len(asked.channels))
        every = torch.arange(len(asked.channels), device=asked.fill.device)
        with self._bar(len(every), "tracking") as bar:
            ablate(follower, asked.channels, every, asked.fill, scores, batch_size=self.batch_size, bar=bar)
        return scores

    def _expected(self, asked: _Asked, followed: AblatedScores | None) -> tuple[Tensor, Tensor | None]:
        """All channel numbers (C,), those expected to matter most first; the drops (T, C) predicted for the rest."""
        given = (asked.detector, asked.groups, asked.targets, asked.fill)
        if self.ranking == "tracked" and followed is not None:
            order = channel_weights(followed).abs().sum(0).argsort(descending=True, stable=True)
        else:
            order = order_channels(*given, self.ranking)
        if self.rest == "first_order":
            return order, predicted_drops(*given)
        return order, None if followed is None or self.rest == "zero" else followed.drops

    def _settled(self, features: Features, before: Tensor, after: AblatedScores) -> bool:
        if after.predicted is None and bool(before.isnan().all()):
            return False
        earlier = combine_levels(features, channel_weights(replace(after, ablated=before)))
        now = combine_levels(features, channel_weights(after))
        return bool((rank_correlation(earlier, now) >= (self.fidelity or 0)).all())

    def _bar(self, n: int, doing: str) -> tqdm:
        return tqdm(total=n, desc=doing, unit="channel", disable=hides_bar(self.progress), leave=False)


def channel_weights(scores: AblatedScores) -> Tensor:
    """(T, C) ``(y - y_c) / |y|``, the drop itself where y = 0; the predicted drop, or 0, where not ablated."""
    otherwise = torch.zeros_like(scores.ablated) if scores.predicted is None else scores.predicted
    drops = torch.where(scores.ablated.isnan(), otherwise.to(scores.ablated.dtype), scores.drops)
    scale = torch.where(scores.clean == 0, 1, scores.clean.abs())
    return drops / scale[:, None]


def combine_levels(features: Features, weights: Tensor) -> Tensor:
    """The maps (T, H, W) in image pixels: sum over levels and channels of weight times feature."""
    geometry = features.inputs.geometries[0]
    split = Channels.of(features).split(weights)
    total = [
        geometry.map_to_image(torch.einsum("tc,chw->thw", split[name].to(level.dtype), level[0]))
        for name, level in features.levels.items()
    ]
    return torch.stack(total).sum(0).float()
