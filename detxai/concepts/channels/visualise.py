"""Activation maximisation: pictures that excite channels of a layer, or a class of the head, as much as possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detxai.adapters.detector import Detector, Inputs
from detxai.adapters.network import NetworkDetector, require_network
from detxai.concepts.channels.fourier_image import first_spectrum, image_from_spectrum, moved
from detxai.concepts.channels.layer_pass import Channel, check_channels, levels_of
from detxai.engine.gradients import NoGradientsError
from detxai.engine.pixel_versions import PixelVersions
from detxai.methods.checks import check_choice, check_count, check_flag, check_number, check_seed
from detxai.progress import progress_bar

Place = Literal["everywhere", "centre"]
Objective = Callable[[Inputs], Tensor]  # from n images to what each is to raise, (n,)
SMALLEST = 1e-9  # of a sum of class scores


@dataclass(frozen=True, eq=False)
class Picture:
    """What excites a channel or a class.

    Attributes:
        image: uint8 (size, size, 3).
        activation: what the channel, or the class, answers to it: the mean over places, or the centre's; for a class
            its highest score.
        before: the same for the picture that the optimisation began with, which is all but grey.
    """

    image: npt.NDArray[np.uint8]
    activation: float
    before: float


@dataclass(frozen=True)
class FeatureVisualisation:
    """Pictures found by gradient ascent, in a parametrisation in which natural images are likely.

    The spectrum of a picture is optimised, each frequency weighed as in natural images, and its colours in axes that
    natural images do not correlate. Before each step the picture is shifted, scaled and rotated a little by chance, so
    that what remains is not a pattern of single pixels.

    Args:
        size: side of the pictures in pixels; the model reads them unresized. A multiple of the model's largest stride,
            often 32.
        steps: of gradient ascent (Adam).
        learning_rate: of Adam.
        place: ``"everywhere"``: the channel's mean over all places; ``"centre"``: its value at the middle cell.
        jitter: largest shift, as a share of the side.
        scale: largest relative change of size.
        rotation: largest angle, degrees.
        decorrelated: colours in uncorrelated axes; False: red, green and blue.
        at_once: pictures in one pass.
        seed: of the first pictures and of the movements.
        progress: a bar; None: where standard error is a terminal.

    Raises:
        TypeError, ValueError: a setting is wrong.

    Source: Olah, Mordvintsev & Schubert, 2017, Feature visualization (Distill). Differs in one random affine movement
    a step instead of padding, two jitters, scaling and rotation one after the other; and in the class objective, which
    is the logarithm of the sum of the class's scores over all candidates, as a detector's head has one for each place.
    """

    size: int = 160
    steps: int = 128
    learning_rate: float = 0.05
    place: Place = "everywhere"
    jitter: float = 0.05
    scale: float = 0.1
    rotation: float = 5.0
    decorrelated: bool = True
    at_once: int = 6
    seed: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name, least in (("size", 16), ("steps", 1), ("at_once", 1)):
            check_count(name, getattr(self, name), least)
        check_number("learning_rate", self.learning_rate, above=0)
        for name in ("jitter", "scale", "rotation"):
            check_number(name, getattr(self, name))
        check_choice("place", self.place, get_args(Place))
        check_flag("decorrelated", self.decorrelated)
        check_seed(self.seed, from_zero=True)

    def of_channels(self, detector: Detector, channels: Sequence[Channel], layers: Sequence[str]) -> list[Picture]:
        """A picture for each channel.

        Args:
            detector: a network.
            channels: whose levels ``layers`` put out.
            layers: names of layers.

        Raises:
            LookupError: an unknown layer or channel.
            TypeError: the detector is a black box.
        """
        network = require_network(detector)
        blank = PixelVersions.of_blank(network, self.size)
        with torch.no_grad():
            check_channels(channels, levels_of(network, blank.clean, layers))

        def objective(part: Sequence[Channel]) -> Objective:
            return lambda inputs: torch.stack(
                [
                    self._at_place(levels[channel.level][row, channel.number])
                    for levels in [levels_of(network, inputs, layers)]
                    for row, channel in enumerate(part)
                ]
            )

        parts = [channels[start : start + self.at_once] for start in range(0, len(channels), self.at_once)]
        return self._pictures(network, blank, [(len(part), objective(part), None) for part in parts])

    def of_classes(self, detector: Detector, labels: Sequence[int]) -> list[Picture]:
        """A picture for each class of the head.

        Raises:
            ValueError: the detector has no such class.
            TypeError: the detector is a black box.
        """
        network = require_network(detector)
        blank = PixelVersions.of_blank(network, self.size)
        with torch.no_grad():
            known = network.candidates(blank.clean).labels.tolist()
        unknown = sorted(set(labels) - set(known))
        if unknown or not labels:
            raise ValueError(f"labels must be some of {known}, got {unknown or 'none'}")

        def scores(inputs: Inputs, part: Sequence[int]) -> list[Tensor]:
            candidates = network.candidates(inputs)
            return [candidates.class_scores[row, :, known.index(label)] for row, label in enumerate(part)]

        def asked(part: Sequence[int]) -> tuple[int, Objective, Objective]:
            return (
                len(part),
                lambda inputs: torch.stack([s.sum().clamp(min=SMALLEST).log() for s in scores(inputs, part)]),
                lambda inputs: torch.stack([s.amax() if len(s) else s.sum() for s in scores(inputs, part)]),
            )

        parts = [labels[start : start + self.at_once] for start in range(0, len(labels), self.at_once)]
        return self._pictures(network, blank, [asked(part) for part in parts])

    def _at_place(self, values: Tensor) -> Tensor:
        """Of one channel's values (h, w)."""
        return values.mean() if self.place == "everywhere" else values[values.shape[0] // 2, values.shape[1] // 2]

    def _pictures(
        self,
        detector: NetworkDetector,
        blank: PixelVersions,
        parts: Sequence[tuple[int, Objective, Objective | None]],
    ) -> list[Picture]:
        """For each part: how many pictures, what they raise, and what is reported where that is another number."""
        found: list[Picture] = []
        with detector.borrowed(), progress_bar(self.progress, self.steps * len(parts), "optimising", "step") as bar:
            for n, objective, reported in parts:
                dice = torch.Generator().manual_seed(self.seed + len(found))
                spectrum = first_spectrum(n, self.size, dice).to(blank.pixels.device).requires_grad_()
                told = reported or objective
                before = self._told(told, blank, spectrum)
                optimiser = torch.optim.Adam([spectrum], lr=self.learning_rate)
                for _ in range(self.steps):
                    self._step(objective, blank, spectrum, optimiser, dice)
                    bar.update()
                after = self._told(told, blank, spectrum)
                images = self._image(spectrum).detach().permute(0, 2, 3, 1).mul(255).round().byte().cpu().numpy()
                found += [Picture(*each) for each in zip(images, after, before, strict=True)]
        return found

    def _step(
        self,
        objective: Objective,
        blank: PixelVersions,
        spectrum: Tensor,
        optimiser: torch.optim.Optimizer,
        dice: torch.Generator,
    ) -> None:
        with torch.enable_grad():
            images = self._image(spectrum)
            shown = moved(images, dice, jitter=self.jitter, scale=self.scale, rotation=self.rotation)
            raised = objective(blank.inputs(shown.to(blank.pixels))).sum()
        if not raised.requires_grad:
            raise NoGradientsError("model must have gradients to optimise a picture, got none")
        (spectrum.grad,) = torch.autograd.grad(-raised, [spectrum])  # the model's own .grad stays as it is
        optimiser.step()

    def _image(self, spectrum: Tensor) -> Tensor:
        return image_from_spectrum(spectrum, self.size, decorrelated=self.decorrelated)

    def _told(self, told: Objective, blank: PixelVersions, spectrum: Tensor) -> list[float]:
        with torch.no_grad():
            return told(blank.inputs(self._image(spectrum).to(blank.pixels))).float().tolist()
