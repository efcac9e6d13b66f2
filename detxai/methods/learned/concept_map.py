"""The map of a box from the concepts of its detector."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from detxai.adapters.changes.own_context import in_full_precision
from detxai.adapters.detector import Detector
from detxai.adapters.network import require_network
from detxai.detections import Detections
from detxai.engine.batching import check_batch_size
from detxai.engine.concepts.concept_file import Concepts
from detxai.engine.concepts.effects import concept_effects, concept_maps, memberships_of
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.best_slice import on_best_slice
from detxai.methods.checks import check_target
from detxai.methods.results import explanations
from detxai.targets import ClassScoreTarget, Target, ask_about


@dataclass(frozen=True)
class ConceptMap:
    """Each concept's place in the image, weighed by the share of the box's score that is lost without it.

    ``values = sum_j (y - y_j) / |y| * m_j``, with y the target's score, y_j the score with concept j removed from the
    features, and m_j (H, W) how far each pixel belongs to it. The heatmap is the positive part; negative values are
    concepts that speak against the box. ``details["effects"]`` has ``(y - y_j) / |y|`` for every concept.

    Args:
        concepts: the folder, or the ``concepts.safetensors`` in it, that ``detxai concepts find`` wrote for this
            detector. It must be given.
        concept: the number of one concept: the map is its place alone, ``m_j``; None: all, by their effects.
        batch_size: concepts removed at once; None: what fits the device.
        target: from a detection's box and label to the question asked of it.

    Source: detxai's own; the concepts are a variational mixture (Blei & Jordan, 2006, Variational inference for
    Dirichlet process mixtures, Bayesian Analysis 1), ranked by what their removal does (Goyal et al., 2019, Explaining
    classifiers with causal concept effect, arXiv:1907.07165; here the features are changed, and not the image).
    """

    name: ClassVar[str] = "concepts"
    asks_about_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "network"
    passes: ClassVar[str] = "1 pass, and a part of one for each concept; shared by all boxes"
    needs_file: ClassVar[str] = "concepts"

    concepts: str | Path | None = None
    concept: int | None = None
    batch_size: int | None = None
    target: Callable[[Any, int], Target] = ClassScoreTarget

    def __post_init__(self) -> None:
        if self.concept is not None and (isinstance(self.concept, bool) or not isinstance(self.concept, int)):
            raise TypeError(f"concept must be the number of a concept, or None, got {self.concept!r}")
        check_batch_size(self.batch_size)
        check_target(self.target)

    @in_full_precision
    @on_best_slice
    def __call__(self, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        """One explanation for each detection.

        Raises:
            ValueError: no file was given, it is of another detector, or it has no such concept.
            FileNotFoundError: there is no such file.
        """
        started = time.perf_counter()
        detector = require_network(detector)
        concepts = self._read()
        concepts.expect_detector(detector)
        features = detector.features(image, concepts.layers)
        if len(detections) == 0:
            return []
        targets = ask_about(detections, self.target)
        with detector.borrowed(), torch.no_grad():
            memberships = memberships_of(concepts, features)
            found = concept_effects(detector, features, targets, concepts, memberships, self.batch_size)
            maps = concept_maps(concepts, features, memberships)
        scale = torch.where(found.clean == 0, 1, found.clean.abs())
        effects = (found.drops / scale[:, None]).to(maps)
        values = torch.einsum("tj,jhw->thw", effects, maps)
        if self.concept is not None:
            values = maps[self.concept].expand(len(detections), -1, -1)
        return explanations(
            self, detector, features.inputs, detections, values, started=started, passes=1 + found.passes,
            layers=features.layers, details=[{"effects": row} for row in effects.tolist()],
        )  # fmt: skip

    def _read(self) -> Concepts:
        if self.concepts is None:
            raise ValueError(
                "concepts must be the folder that detxai concepts find wrote for this detector, got none; find them "
                "first, then give concepts=FOLDER (--set concepts=FOLDER)"
            )
        found = Concepts.load(Path(self.concepts))
        if self.concept is not None and not 0 <= self.concept < len(found):
            raise ValueError(f"concept must be a number from 0 to {len(found) - 1}, got {self.concept}")
        return found
