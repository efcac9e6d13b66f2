"""The gradients of every box's score at once: what Captum's gradient methods are run on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector, Inputs
from detxai.adapters.network import NetworkDetector
from detxai.adapters.views.box_scalar import BoxScores
from detxai.detections import Detections
from detxai.engine.batching import images_at_once, in_batches
from detxai.engine.gradients import gradients_of_each
from detxai.explanation import Explanation, settings_of
from detxai.images import Image
from detxai.methods.best_slice import on_best_slice
from detxai.methods.from_captum.captum_module import captum_runs, import_captum
from detxai.methods.results import explanations
from detxai.progress import progress_bar
from detxai.targets import Target, ask_about

AT_ONCE = 8  # images that Captum makes at once: a constant, so that noise does not depend on the memory that is free
MAPS_AT_ONCE = 32  # gradients, of boxes times images, that are held at once


@dataclass(eq=False)
class JointGradients:
    """Captum's ``gradient_func`` for T boxes: each image runs forward once for all of them, and back once for each.

    Images are (n, 1, 3, h, w), so that Captum's products with gradients (n, T, 3, h, w) broadcast over the boxes.
    What memory allows runs at once, whatever number Captum hands over; ``on_images`` is told how many were asked for.
    """

    scores: BoxScores
    on_images: Callable[[int], object]
    batch_size: int = field(init=False)

    def __post_init__(self) -> None:
        self.batch_size = min(AT_ONCE, images_at_once(self.scores.input_tensor))

    def __call__(
        self,
        forward_fn: Callable[..., Any],
        inputs: tuple[Tensor, ...],
        target_ind: object = None,
        additional_forward_args: object = None,
    ) -> tuple[Tensor]:
        """((n, T, 3, h, w),) the gradient of each box's score at each of the images."""
        (images,) = inputs
        found = torch.cat([made for _, made in in_batches(images[:, 0].detach(), self.batch_size, self._run)])
        self.on_images(len(images))
        return (found,)

    def _run(self, images: Tensor) -> Tensor:
        with torch.enable_grad():
            images = images.clone().requires_grad_()
            columns = self.scores(images).T
            if not columns.requires_grad:
                raise ValueError(
                    "model must have gradients of the target, got none: it was made in inference mode, runs without "
                    "gradients, or the target has none"
                )
            found = [gradient for (gradient,) in gradients_of_each([c.sum() for c in columns], [images])]
        return torch.stack(found, 1)


@dataclass(frozen=True, eq=False)
class BoxQuery:
    """A group of boxes of one image, that Captum is asked about together.

    Attributes:
        detector: what is explained.
        clean: the image, prepared.
        scores: the T boxes' scores, at the image's own proposals.
        captum: the module ``captum.attr``.
        on_images: called with the number of images after every batch whose gradients were asked for.
        notes: recorded in the explanations' details.
    """

    detector: NetworkDetector
    clean: Inputs
    scores: BoxScores
    captum: Any
    on_images: Callable[[int], object]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> Tensor:
        """(1, 1, 3, h, w), for Captum to write on."""
        return self.clean.tensor[:, None].clone()

    def jointly(self, kind: str, module: nn.Module | None = None) -> Any:
        """Captum's method of this name, with the gradients of all the boxes.

        Args:
            kind: the class's name in ``captum.attr``.
            module: where it places its hooks; default: nowhere.
        """
        method = getattr(self.captum, kind)(self.scores if module is None else module)
        method.gradient_func = JointGradients(self.scores, self.on_images)
        return method


class GradientMethod(ABC):
    """What Captum's gradient methods have in common: a subclass is a frozen dataclass that says what Captum computes.

    ``values`` is the attribution of each colour of each input pixel, combined over the colours and shared out over the
    image's pixels (``Geometry.amounts_to_image``). A two-stage detector is explained at the image's own proposals;
    to find them takes a forward pass more.
    """

    name: ClassVar[str]
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "gradients"
    of_single_pixels: ClassVar[bool] = True
    passes: ClassVar[str]
    images_of_one_call: ClassVar[int] = 1  # for how many images Captum asks for gradients at once
    seed: int = 0  # of methods that draw nothing, too
    progress: bool | None = False  # a bar; False where one or two passes answer
    target: Callable[[Any, int], Target]

    @abstractmethod
    def attributions(self, query: BoxQuery) -> Tensor:
        """(1, T, 3, h, w) what Captum attributes to each input of each box."""

    @abstractmethod
    def over_colours(self, attributions: Tensor) -> Tensor:
        """(T, h, w) from (T, 3, h, w)."""

    def n_images(self) -> int:
        """For how many images the gradients are asked for, for each group of boxes."""
        return 1

    def details(self, query: BoxQuery, attributions: Tensor) -> list[dict[str, Any]]:
        """What each of the boxes' explanations says beside its map."""
        return [dict(query.notes) for _ in range(attributions.shape[1])]

    @in_full_precision
    @on_best_slice
    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection.

        Raises:
            TypeError: the detector is a black box.
            ValueError: a label is wrong, the target has no gradients, or the method does not apply to the network.
            ImportError: Captum is not installed.
        """
        started = perf_counter()
        if not isinstance(detector, NetworkDetector):
            raise TypeError(
                f"{self.name} needs gradients, and {detector.describe()['model']} is a black box without; occlusion, "
                "feature_ablation, lime, kernel_shap and shapley_sampling need its answers alone, and d_rise needs none"
            )
        captum = import_captum()
        if len(detections) == 0:
            return []
        clean, group = detector.prepare(image), max(1, MAPS_AT_ONCE // self.images_of_one_call)
        maps, details, n_passes = [], [], 0
        groups = range(0, len(detections), group)
        most = len(groups) * self.n_images()
        with detector.borrowed(), progress_bar(self.progress, most, "gradients", "image") as bar:
            for first in groups:
                targets = ask_about(detections[first : first + group], self.target)
                scores = BoxScores(detector, clean, targets, hold_proposals=True)
                query = BoxQuery(detector, clean, scores, captum, bar.update)
                with captum_runs(clean.tensor.device, self.seed):  # the same noise for every group
                    found = self.attributions(query).detach()
                details += self.details(query, found)
                on_input = self.over_colours(found[0]).float()
                maps += list(scores.to_image(on_input).cpu())
                n_passes += scores.n_passes
        return explanations(
            self, detector, clean, detections, maps, started=started, passes=n_passes,
            settings={**settings_of(self), **self.recorded()}, details=details,
        )  # fmt: skip

    def recorded(self) -> dict[str, Any]:
        """Settings that are recorded in another form."""
        return {}


def largest(attributions: Tensor) -> Tensor:
    """(T, h, w) the largest magnitude over the colours."""
    return attributions.abs().amax(1)


def total(attributions: Tensor) -> Tensor:
    """(T, h, w) the sum over the colours, signed."""
    return attributions.sum(1)


def sum_against_scores(query: BoxQuery, attributions: Tensor, baseline: Tensor) -> list[dict[str, Any]]:
    """For each box its score, that of the baseline, and what the attributions add up to: their difference, ideally."""
    with torch.no_grad():
        scores, without = query.scores(torch.cat([query.clean.tensor, baseline])).tolist()
    sums = attributions[0].double().sum((1, 2, 3)).tolist()
    return [
        {"score": score, "baseline_score": empty, "sum_of_attributions": amount}
        for score, empty, amount in zip(scores, without, sums, strict=True)
    ]
