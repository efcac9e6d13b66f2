"""Channels of a class: which matter, what they want to see, where they find it, and how few keep a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detxai.adapters.network import NetworkDetector
from detxai.concepts.channels.examples import Example, Examples, strongest_examples
from detxai.concepts.channels.important import important_channels, most_detected_class
from detxai.concepts.channels.layer_pass import Channel
from detxai.concepts.channels.sufficient import SufficientChannels, sufficient_channels
from detxai.concepts.channels.visualise import FeatureVisualisation, Picture
from detxai.data.image_files import ImageFile
from detxai.detections import Detections


@dataclass(frozen=True)
class StudySettings:
    """What a study looks at; see ``detxai concepts channels --help``."""

    layers: tuple[str, ...]
    label: int | None = None
    channels: tuple[Channel, ...] = ()
    top: int = 12
    max_boxes: int = 20
    keeps: float = 0.5
    n_examples: int = 6
    score_threshold: float = 0.25


@dataclass(frozen=True, eq=False)
class ShownChannel:
    """One channel: its picture, its examples, and what the class loses without it (None where not asked)."""

    channel: Channel
    effect: float | None
    picture: Picture
    examples: list[Example]

    def as_json(self) -> dict[str, Any]:
        """Numbers alone."""
        return {
            "channel": str(self.channel),
            "effect": self.effect,
            "activation": self.picture.activation,
            "activation_of_grey": self.picture.before,
            "examples": [
                {
                    "value": example.value,
                    "image": example.file_name,
                    "cell": list(example.cell),
                    "receptive_field": None if example.field is None else list(example.field.box),
                    "receptive_field_extent": None if example.field is None else list(example.field.extent),
                }
                for example in self.examples
            ],
        }


@dataclass(frozen=True, eq=False)
class ChannelStudy:
    """All that a study found.

    Attributes:
        label: the class.
        channels: most important first, or as they were named.
        class_picture: what the head wants to see of the class.
        kept: a minimal sufficient set for the first box of the class; None: no box of it was found.
        box: (file name, detection) of that box.
        n_boxes: boxes that were ablated for the effects; 0 where the channels were named.
        n_images: that were read; failures: file name -> why it was skipped.
    """

    label: int
    channels: list[ShownChannel]
    class_picture: Picture
    kept: SufficientChannels | None
    box: tuple[str, Detections] | None
    n_boxes: int
    n_images: int
    failures: dict[str, str]

    def as_json(self, class_name: str) -> dict[str, Any]:
        """Numbers alone."""
        kept = self.kept
        return {
            "class": class_name,
            "class_picture_score": self.class_picture.activation,
            "n_boxes": self.n_boxes,
            "n_images": self.n_images,
            "channels": [shown.as_json() for shown in self.channels],
            "sufficient": kept
            and {
                "image": None if self.box is None else self.box[0],
                "box": None if self.box is None else self.box[1].boxes[0].tolist(),
                **kept.as_json(),
            },
            "failures": self.failures,
        }


def study_channels(
    detector: NetworkDetector,
    files: Sequence[ImageFile],
    settings: StudySettings,
    visualise: FeatureVisualisation,
    progress: bool | None = None,
) -> ChannelStudy:
    """Do a study: effects, the minimal set of the first box, examples, pictures.

    Raises:
        ValueError: no box of the class is found where the channels are not named, or no image can be read.
        LookupError: an unknown layer or channel.
    """
    asked = {"score_threshold": settings.score_threshold}
    label = most_detected_class(detector, files, **asked) if settings.label is None else settings.label
    effects: dict[Channel, float | None] = dict.fromkeys(settings.channels)
    n_boxes, first, failures = 0, None, {}
    if not settings.channels:
        found = important_channels(
            detector, files, label, settings.layers, most_boxes=settings.max_boxes, progress=progress, **asked
        )
        effects = {each.channel: each.effect for each in found.effects[: settings.top]}
        n_boxes, first, failures = len(found.boxes), found.boxes[0], found.failures
    kept, box = _kept(detector, files, first, settings, progress)
    channels = list(effects)
    examples: Examples = strongest_examples(
        detector, files, channels, settings.layers, n=settings.n_examples, progress=progress
    )
    pictures = visualise.of_channels(detector, channels, settings.layers)
    (class_picture,) = visualise.of_classes(detector, [label])
    shown = [
        ShownChannel(channel, effects[channel], picture, examples.by_channel[channel])
        for channel, picture in zip(channels, pictures, strict=True)
    ]
    return ChannelStudy(
        label, shown, class_picture, kept, box, n_boxes, examples.n_images, failures | examples.failures
    )


def _kept(
    detector: NetworkDetector,
    files: Sequence[ImageFile],
    first: tuple[str, int] | None,
    settings: StudySettings,
    progress: bool | None,
) -> tuple[SufficientChannels | None, tuple[str, Detections] | None]:
    """A minimal set for the first box that was ablated, and that box."""
    if first is None:
        return None, None
    image = next(file for file in files if file.file_name == first[0]).read()
    detection = detector.detect(image, settings.score_threshold)[first[1]]
    kept = sufficient_channels(detector, image, detection, settings.layers, keeps=settings.keeps, progress=progress)
    return kept, (first[0], detection.to("cpu"))
