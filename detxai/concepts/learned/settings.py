"""How an explainer is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from detxai.methods.checks import check_choice, check_count, check_fraction, check_number, check_seed

Objective = Literal["evidence", "shapley", "choice"]
OBJECTIVES: tuple[Objective, ...] = ("evidence", "shapley", "choice")
Gradient = Literal["through", "scores"]
GRADIENTS: tuple[Gradient, ...] = ("through", "scores")


@dataclass(frozen=True)
class LearnSettings:
    """The settings of one training.

    Args:
        objective: ``"evidence"``: where the default method finds evidence; its maps, with few passes each, are made
            first. ``"shapley"``: amounts that add up to what the detector answers for random subsets of regions, which
            makes them Shapley values; the detector is asked first, and not while the network learns. ``"choice"``: L2X:
            which k of n regions to show, so that the detector answers as it does for the whole image; the detector is
            asked in every step.
        n_subsets: random subsets for each box; each takes two views. Only for ``"shapley"``.
        label_passes: ``max_passes`` of a map of the default method. Only for ``"evidence"``.
        steps: of the optimiser.
        batch_size: images a step, with all their boxes.
        learning_rate: the highest; it rises over the first twentieth of the steps and falls along a cosine.
        weight_decay: of AdamW.
        width: channels of the network at its finest scale; a multiple of 16.
        layers: of the detector, to be read beside the pixels; None: its default layers, or none for a black box; an
            empty list: pixels alone.
        k: how many regions are shown, of some 50; None: another number for each image, from a sixteenth to a half of
            them, so that the order of all regions is learnt. Only for ``"choice"``.
        draws: choices for each box and step. Only for ``"choice"``.
        temperature: of the relaxed choice.
        gradient: ``"through"`` the detector, back to which pixels are shown; or from its ``"scores"`` alone, which is
            much noisier and works for black boxes; None: through it where it is a network. Only for ``"choice"``.
        held_out: share of the images, in [0, 1), that is not trained on but measured.
        max_boxes: of one image; those with the highest scores.
        score_threshold: in [0, 1]: boxes are the detector's own above it.
        checkpoint_every: steps, after which a killed training goes on.
        seed: of everything that is random.

    Raises:
        ValueError, TypeError: a setting is wrong.
    """

    objective: Objective = "evidence"
    n_subsets: int = 8
    label_passes: int = 150
    steps: int = 800
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    width: int = 16
    layers: Sequence[str] | None = None
    k: int | None = None
    draws: int = 2
    temperature: float = 0.5
    gradient: Gradient | None = None
    held_out: float = 0.1
    max_boxes: int = 6
    score_threshold: float = 0.25
    checkpoint_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("gradient", self.gradient, (None, *GRADIENTS))
        for name in ("n_subsets", "label_passes", "steps", "batch_size", "draws", "max_boxes", "checkpoint_every"):
            check_count(name, getattr(self, name), 1)
        check_count("width", self.width, 16)
        if self.width % 16:
            raise ValueError(f"width must be a multiple of 16, got {self.width}")
        if self.k is not None:
            check_count("k", self.k, 1)
        if self.gradient == "scores" and self.draws < 2:
            raise ValueError(f"draws must be at least 2 where the gradient is from scores alone, got {self.draws}")
        for name in ("learning_rate", "temperature"):
            check_number(name, getattr(self, name), above=0)
        check_number("weight_decay", self.weight_decay)
        check_fraction("held_out", self.held_out, "[0, 1)")
        check_fraction("score_threshold", self.score_threshold, "[0, 1]")
        check_seed(self.seed, from_zero=True)
