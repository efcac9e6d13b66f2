"""The training of the network, step by step; it can be killed at any moment and goes on from its checkpoint."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.concepts.learned.answers import ImageAnswers
from detxai.concepts.learned.images import TrainingImage
from detxai.concepts.learned.objectives import ChoiceObjective, evidence_loss, explained_share, shapley_loss
from detxai.concepts.learned.settings import LearnSettings, Objective
from detxai.engine.learned.inputs import explainer_inputs
from detxai.engine.learned.network import ExplainerInputs, ExplainerNetwork
from detxai.progress import progress_bar
from detxai.runs.checkpoints import load_checkpoint, save_checkpoint
from detxai.runs.interrupting import raise_if_interrupted

MOST_CACHED = 2**30  # bytes of inputs that are kept in memory
N_STANDARD = 32  # images from which the mean and spread of features are taken
WARMUP = 0.05  # of the steps
MAX_NORM = 1.0  # of the gradient


@dataclass(eq=False)
class BoxInputs:
    """The network's inputs of the boxes of image after image; the latest are kept, in half precision.

    They are rounded to half precision also where they are made anew, so that what fits the memory changes nothing.

    Attributes:
        detector: whose features are read.
        images: all of them, by number.
        answers: number of an image -> its boxes.
        layers: of the detector.
    """

    detector: Detector
    images: Sequence[TrainingImage]
    answers: dict[int, ImageAnswers]
    layers: Sequence[str]
    _kept: OrderedDict[int, ExplainerInputs] = field(default_factory=OrderedDict)
    _n_bytes: int = 0

    def of_image(self, number: int) -> ExplainerInputs:
        """Of the boxes of one image."""
        if number not in self._kept:
            self._keep(number, self._made(number))
        self._kept.move_to_end(number)
        return _cast(self._kept[number], torch.float32)

    def of_images(self, numbers: Sequence[int]) -> ExplainerInputs:
        """Of the boxes of several images, together."""
        return ExplainerInputs.cat([self.of_image(number) for number in numbers])

    def _made(self, number: int) -> ExplainerInputs:
        boxes, image = self.answers[number].detections, self.images[number].load()
        with self.detector.borrowed(), torch.no_grad():
            inputs, _, _ = explainer_inputs(self.detector, image, boxes, self.layers)
        return _cast(inputs, torch.float16)

    def _keep(self, number: int, inputs: ExplainerInputs) -> None:
        self._kept[number] = inputs
        self._n_bytes += _n_bytes(inputs)
        while self._n_bytes > MOST_CACHED and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._n_bytes -= _n_bytes(oldest)


def train(
    network: ExplainerNetwork,
    inputs: BoxInputs,
    numbers: Sequence[int],
    settings: LearnSettings,
    checkpoint: Path,
    progress: bool | None = None,
) -> float:
    """Train a network, or go on from the checkpoint; the processor seconds that it took in all.

    Args:
        network: as it was made; trained when this returns.
        inputs: of the images.
        numbers: the images that are trained on.
        settings: of the training.
        checkpoint: the file; written every ``settings.checkpoint_every`` steps.
        progress: a bar; None: where standard error is a terminal.

    Raises:
        ValueError: the checkpoint was made with other settings.
    """
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    parts = {"network": network, "optimiser": optimiser}
    first, spent = load_checkpoint(checkpoint, parts, settings)
    started = time.process_time()
    if first == 0 and network.n_features:
        network.standardise(inputs.of_images(list(numbers)[:N_STANDARD]).features)
    choice = ChoiceObjective(inputs.detector, settings) if settings.objective == "choice" else None
    network.train()
    with progress_bar(progress, settings.steps, "training", "step") as bar:
        bar.update(first)
        for step in range(first, settings.steps):
            raise_if_interrupted()
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * learning_rate_share(step / settings.steps)
            losses = _losses(network, inputs, batch(numbers, step, settings), settings, choice, step)
            optimiser.zero_grad()
            losses.mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
            optimiser.step()
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                save_checkpoint(checkpoint, parts, settings, step + 1, spent + time.process_time() - started)
            bar.set_postfix_str(f"loss {float(losses.detach().mean()):.3f}", refresh=False)
            bar.update(1)
    network.eval()
    return spent + time.process_time() - started


def held_out_figures(
    network: ExplainerNetwork, inputs: BoxInputs, numbers: Sequence[int], objective: Objective
) -> dict[str, float]:
    """How well the network does on images, by name; empty where nothing was recorded to compare with.

    ``held_out_explained_share`` for Shapley values: see ``explained_share``. ``held_out_divergence`` for evidence: the
    mean of ``evidence_loss``.
    """
    if objective == "choice" or not numbers:
        return {}
    answers = [inputs.answers[number] for number in numbers]
    found: list[list[Tensor]] = []
    with torch.no_grad():
        for number in numbers:
            of_image = inputs.of_image(number)
            said = network(of_image) if objective == "shapley" else network.log_chances(of_image)
            found.append([said, of_image.shares])
    said, shares = (torch.cat(parts) for parts in zip(*found, strict=True))
    if objective == "shapley":
        return {"held_out_explained_share": explained_share(said, shares, answers)}
    return {"held_out_divergence": float(evidence_loss(said, shares, answers).mean())}


def batch(numbers: Sequence[int], step: int, settings: LearnSettings) -> list[int]:
    """The images of one step: each once in every pass over them, in an order that the seed draws."""
    size, found = min(settings.batch_size, len(numbers)), []
    for place in range(step * size, (step + 1) * size):
        dice = torch.Generator().manual_seed(settings.seed * 1_000_003 + place // len(numbers))
        found.append(numbers[int(torch.randperm(len(numbers), generator=dice)[place % len(numbers)])])
    return found


def learning_rate_share(done: float) -> float:
    """The learning rate as a share of its highest: up in a straight line, then down along a cosine.

    Args:
        done: in [0, 1], the share of the steps that is done.
    """
    if done < WARMUP:
        return (done + 0.01) / (WARMUP + 0.01)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))


def _losses(
    network: ExplainerNetwork,
    inputs: BoxInputs,
    numbers: Sequence[int],
    settings: LearnSettings,
    choice: ChoiceObjective | None,
    step: int,
) -> Tensor:
    """(T,) the loss of each box of a batch."""
    if choice is not None:
        return _choice_losses(network, inputs, numbers, choice, step)
    together, answers = inputs.of_images(numbers), [inputs.answers[number] for number in numbers]
    if settings.objective == "evidence":
        return evidence_loss(network.log_chances(together), together.shares, answers)
    sizes = [len(of_image) for of_image in answers]
    pairs = zip(network(together).split(sizes), together.shares.split(sizes), strict=True)
    return torch.cat([shapley_loss(*pair, of_image) for pair, of_image in zip(pairs, answers, strict=True)])


def _choice_losses(
    network: ExplainerNetwork, inputs: BoxInputs, numbers: Sequence[int], choice: ChoiceObjective, step: int
) -> Tensor:
    losses = []
    with inputs.detector.borrowed():
        for place, number in enumerate(numbers):
            image, answers_of = inputs.images[number].load(), inputs.answers[number]
            draw = step * len(numbers) + place
            losses.append(choice.loss(network, inputs.of_image(number), image, answers_of, draw))
    return torch.cat(losses)


def _cast(inputs: ExplainerInputs, dtype: torch.dtype) -> ExplainerInputs:
    tensors = [getattr(inputs, one.name) for one in fields(inputs)]
    return ExplainerInputs(*(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors))


def _n_bytes(inputs: ExplainerInputs) -> int:
    tensors = [getattr(inputs, one.name) for one in fields(inputs)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
