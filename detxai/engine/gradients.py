"""Scores traced back to features: through the whole network, or from given levels on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detxai.adapters.detector import Detector, Features, Inputs
from detxai.adapters.network import NetworkDetector, require_network
from detxai.detections import Candidates
from detxai.images import Image
from detxai.targets import Target, score_targets


class NoGradientsError(ValueError):
    """A score that cannot be differentiated by the features."""


@dataclass(frozen=True, eq=False)
class Trace:
    """One image's candidates, and the levels of features that they can be differentiated by.

    Attributes:
        levels: level -> (1, C, h, w), part of the candidates' graph.
        candidates: of the image.
        inputs: the image as the model reads it.
    """

    levels: Mapping[str, Tensor]
    candidates: Candidates
    inputs: Inputs

    @classmethod
    def from_image(
        cls,
        detector: Detector,
        image: Image | Features,
        layers: Sequence[str] | str | None = None,
        *,
        propagate: bool = True,
    ) -> Trace:
        """The trace of an image.

        Args:
            detector: a network; borrowed by the caller until the gradients are there.
            image: one image, or its features.
            layers: names of the layers; default: the adapter's.
            propagate: where one layer reads another, whether a change of the one runs on through the other: True
                traces through the whole network, False from each layer on with the outputs of the others held.

        Raises:
            TypeError: the detector is a black box.
            LookupError: a layer is unknown.
            NoGradientsError: the model has none.
        """
        network = require_network(detector)
        names = network.layer_names(layers)
        if propagate:
            trace = cls.through_network(network, network.prepare(image), names)
        else:
            trace = cls.from_levels(network, network.features(image, names))
        if not trace.candidates.class_scores.requires_grad:
            raise NoGradientsError(
                "model must have gradients, got none: it was made in inference mode, or runs without them"
            )
        return trace

    @classmethod
    def through_network(cls, detector: NetworkDetector, clean: Inputs, layers: Sequence[str]) -> Trace:
        """One full pass with its graph, from the pixels on."""
        # a checkpoint's parameters may not require gradients: the graph starts at the pixels
        inputs = replace(clean, tensor=clean.tensor.clone().requires_grad_())
        levels, candidates = detector.trace(inputs, layers)
        return cls(levels, candidates, inputs)

    @classmethod
    def from_levels(cls, detector: NetworkDetector, features: Features) -> Trace:
        """What reads the features, with its graph; the levels are independent of each other."""
        levels = {name: level.detach().clone().requires_grad_() for name, level in features.levels.items()}
        with torch.enable_grad():
            return cls(levels, detector.resume(features.with_levels(levels)), features.inputs)

    def scores(self, targets: Sequence[Target]) -> list[Tensor]:
        """The targets' scores, T scalars with their graph."""
        with torch.enable_grad():
            return list(score_targets(targets, self.candidates)[:, 0])

    def gradients(self, score: Tensor, *, differentiable: bool = False) -> list[Tensor]:
        """The gradient of ``score`` with respect to each level, (1, C, h, w); zeros for a level that it does not read.

        The graph is kept, for further scores.

        Args:
            score: a scalar made from ``candidates``.
            differentiable: whether the gradients have a graph of their own, for second derivatives.

        Raises:
            NoGradientsError: the score has none.
        """
        if not score.requires_grad:
            raise NoGradientsError("target must have gradients with respect to the features, got a score without any")
        levels = list(self.levels.values())
        return list(
            torch.autograd.grad(
                score, levels, retain_graph=True, create_graph=differentiable, allow_unused=True, materialize_grads=True
            )
        )


def gradients_of_each(scores: Sequence[Tensor], inputs: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """The gradients of each of T scalars with respect to each of the inputs; zeros for one that it does not read.

    The graph is freed with the last of them.
    """
    for i, score in enumerate(scores):
        last = i + 1 == len(scores)
        yield torch.autograd.grad(score, inputs, retain_graph=not last, allow_unused=True, materialize_grads=True)
