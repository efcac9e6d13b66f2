"""The channels that matter most for a class: what its boxes in a data set lose without each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from detxai.adapters.detector import Detector
from detxai.adapters.network import require_network
from detxai.concepts.channels.examples import for_each_image
from detxai.concepts.channels.layer_pass import Channel
from detxai.data.image_files import ImageFile
from detxai.detections import Detections
from detxai.engine.ablation.channels import Channels
from detxai.methods.ablation_cam import AblationCAM


@dataclass(frozen=True)
class ChannelEffect:
    """What a channel is worth to a class.

    Attributes:
        channel: which.
        effect: the mean share of a box's score that is lost without it; negative where the score rises.
    """

    channel: Channel
    effect: float


@dataclass(frozen=True)
class ImportantChannels:
    """All channels of some layers by what they are worth to a class.

    Attributes:
        label: the class.
        effects: largest effect first.
        boxes: the boxes that were ablated: (file name, number of the detection in that image).
        failures: file name -> why it was skipped.
    """

    label: int
    effects: list[ChannelEffect]
    boxes: list[tuple[str, int]]
    failures: dict[str, str]


def most_detected_class(detector: Detector, files: Sequence[ImageFile], *, score_threshold: float = 0.25) -> int:
    """The label of most detections in these images.

    Raises:
        ValueError: nothing is detected.
    """
    counts: Counter[int] = Counter()
    for_each_image(files, lambda file, array: counts.update(_labels(detector, array, score_threshold)), "detecting")
    if not counts:
        raise ValueError(f"images: nothing in {len(files)} images scores above {score_threshold}: name the channels")
    return counts.most_common(1)[0][0]


def important_channels(
    detector: Detector,
    files: Sequence[ImageFile],
    label: int,
    layers: Sequence[str] | None = None,
    *,
    most_boxes: int = 20,
    score_threshold: float = 0.25,
    progress: bool | None = None,
) -> ImportantChannels:
    """Every channel's effect on a class, by Ablation-CAM's exact ablations, averaged over the class's boxes.

    Args:
        detector: a network.
        files: the images, taken in this order until there are ``most_boxes``.
        label: the class.
        layers: names of layers; None: the adapter's.
        most_boxes: ablated at the most.
        score_threshold: of the boxes.
        progress: a bar; None: where standard error is a terminal.

    Raises:
        ValueError: no box of the class is found.
        LookupError: an unknown layer.
        TypeError: the detector is a black box.
    """
    network = require_network(detector)
    names = network.layer_names(None if layers is None else tuple(layers))
    method = AblationCAM(layers=names, progress=False)
    total: list[torch.Tensor] = []
    boxes: list[tuple[str, int]] = []
    known: list[Channels] = []

    def ask(file: ImageFile, array: npt.NDArray[np.uint8]) -> None:
        if len(boxes) >= most_boxes:
            return
        with network.borrowed():
            features = network.features(array, names)
            detections = network.detections(features, score_threshold)
            places = [p for p, found in enumerate(detections.labels.tolist()) if found == label]
            places = places[: most_boxes - len(boxes)]
            if not places:
                return
            chosen: Detections = detections[places]
            shares = [
                explanation.channel_effects / max(float(score), 1e-6)
                for explanation, score in zip(method(network, features, chosen), chosen.scores, strict=True)
                if explanation.channel_effects is not None
            ]
        known.append(Channels.from_features(features))
        total.append(torch.stack([torch.as_tensor(share) for share in shares]).sum(0))
        boxes.extend((file.file_name, place) for place in places)

    failures = for_each_image(files, ask, "ablating channels", progress)
    if not boxes:
        name = network.class_names.get(label, str(label))
        raise ValueError(f"images: no {name} in {len(files)} images scores above {score_threshold}")
    mean = torch.stack(total).sum(0) / len(boxes)
    channels = named_channels(known[0])
    order = mean.argsort(descending=True, stable=True).tolist()
    return ImportantChannels(
        label, [ChannelEffect(channels[place], float(mean[place])) for place in order], boxes, failures
    )


def named_channels(channels: Channels) -> list[Channel]:
    """Every channel in pyramid order."""
    return [
        Channel(level, number)
        for level, count in zip(channels.levels, channels.counts, strict=True)
        for number in range(count)
    ]


def _labels(detector: Detector, array: npt.NDArray[np.uint8], score_threshold: float) -> list[int]:
    return list(detector.detect(array, score_threshold).labels.tolist())
