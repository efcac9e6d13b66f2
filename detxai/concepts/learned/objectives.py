"""What an explainer is trained for: evidence, Shapley values from recorded answers, or a choice of regions (L2X)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detxai.adapters.detector import Detector, Inputs
from detxai.concepts.learned.answers import FILLS, LEVELS_OF_GREY, ImageAnswers
from detxai.concepts.learned.settings import LearnSettings
from detxai.concepts.learned.subsets import choice_log_chances, drawn_choice, exact_subset, relaxed_subset
from detxai.engine.learned.network import ExplainerInputs, ExplainerNetwork
from detxai.engine.learned.windows import Windows
from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.regions import random_partitions
from detxai.images import Image
from detxai.methods.region_shapley import boxes_on
from detxai.targets import ClassScoreTarget, score_targets

TOTAL_WEIGHT = 1.0  # of the error of the sum over all cells, beside that of random subsets
LEAST_SCORE = 1e-3  # that a choice keeps: below it the logarithm of the score would drown all others
SIZES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the regions that are shown, where k is not given


def shapley_loss(amounts: Tensor, shares: Tensor, answers: ImageAnswers) -> Tensor:
    """(T,) how far additive amounts are from what the detector answered, squared, as shares of the box's score.

    For a subset S and the rest R, the difference of the two answers is to be ``sum of the amounts in S - sum of those
    in R``; both together, ``score(all) - score(nothing)``. Over subsets drawn by the Shapley kernel the amounts of
    least error are the Shapley values.

    Args:
        amounts: (T, 2, GRID, GRID), as shares of the box's score.
        shares: (T, 2, GRID, GRID) how much of each cell counts.
        answers: about the T boxes.

    Source: Jethani et al., 2022, FastSHAP (ICLR), equation 5: one network for all inputs; differs in that complements
    come in pairs and that the answers are recorded once.
    """
    whole, hidden, shown, rest = (
        torch.from_numpy(array).to(amounts) for array in (answers.whole, answers.hidden, answers.shown, answers.rest)
    )
    coverage = torch.from_numpy(answers.coverage).to(amounts) / LEVELS_OF_GREY
    scale = whole.clamp(min=LEAST_SCORE)
    total = (amounts * shares).sum((1, 2, 3))
    in_subset = (amounts[:, None] * coverage).sum((2, 3, 4))
    error = 2 * in_subset - total[:, None] - (shown - rest) / scale[:, None]
    total_error = total - (whole - hidden.mean(1)) / scale
    return error.square().mean(1) + TOTAL_WEIGHT * total_error.square()


def evidence_loss(log_chances: Tensor, counted: Tensor, parts: Sequence[ImageAnswers]) -> Tensor:
    """(T,) how far the chances are from where the default method found evidence: the divergence, in nats, from 0.

    Each map is taken as shares of its own sum, so that easy and hard boxes count alike. Over many noisy maps of the
    same kind of box, the chances of least divergence are the mean of their shares. A map without evidence counts 0.

    Args:
        log_chances: (T, 2, GRID, GRID), of ``ExplainerNetwork.log_chances``.
        counted: (T, 2, GRID, GRID) how much of each cell counts.
        parts: the answers about several images, with T boxes together.
    """
    amounts = torch.cat([torch.from_numpy(part.evidence) for part in parts]).to(log_chances)
    total = amounts.sum((1, 2, 3), keepdim=True)
    tiny = torch.finfo(total.dtype).tiny
    shares = amounts / total.clamp(min=tiny)
    chances_of_cells = log_chances + counted.clamp(min=tiny).log()
    return (torch.xlogy(shares, shares) - shares * chances_of_cells).sum((1, 2, 3))


@dataclass(frozen=True, eq=False)
class ChoiceObjective:
    """L2X: choose k of n regions such that the detector says of them alone what it says of the whole image.

    The loss of a choice S is the cross entropy ``-(p log f(S) + (1 - p) log(1 - f(S)))``, with p the box's score in the
    image and f(S) its score where S is shown and all else is hidden by a filling. Its smallest mean over the data is
    the largest lower bound of the mutual information between the choice and the answer.

    Args:
        detector: what is asked, in every step.
        settings: ``k``, ``draws``, ``temperature``, ``gradient`` and ``seed``.

    Source: Chen et al., 2018, L2X (ICML), equations 3 to 6. Differs in that the detector itself, shown the choice,
    stands for the paper's second network, which guesses the answer from the choice.
    """

    detector: Detector
    settings: LearnSettings

    def loss(
        self, network: ExplainerNetwork, inputs: ExplainerInputs, image: Image, answers: ImageAnswers, step: int
    ) -> Tensor:
        """(T,) the loss of random choices for the T boxes of one image.

        Args:
            network: the explainer.
            inputs: of the boxes.
            image: the image.
            answers: its boxes.
            step: of the training: new partitions and choices in each.
        """
        chances = network.log_chances(inputs).exp()
        canvas = Canvas.with_fills(self.detector, image, FILLS, self.settings.seed)
        whole = torch.from_numpy(answers.whole).to(chances)
        losses = []
        for number, box in enumerate(boxes_on(canvas, answers.detections)):
            losses.append(self._of_box(canvas, box, chances[number], answers, number, whole[number], step))
        return torch.stack(losses)

    def _of_box(
        self, canvas: Canvas, box: Tensor, chances: Tensor, answers: ImageAnswers, number: int, whole: Tensor, step: int
    ) -> Tensor:
        """The mean loss of some choices for one box."""
        draws = torch.arange(self.settings.draws, device=box.device)
        seed = self.settings.seed + 1_000_003 * (step + 1) + 1009 * number
        partitions = random_partitions(canvas.size, box.expand(len(draws), 4), draws, seed)
        logits = region_logits(canvas, box, chances, partitions.labels, partitions.most_regions)
        k = self._k(int(partitions.counts.min()), step + number)
        dice = torch.Generator(box.device).manual_seed(seed)
        if not self._through:
            chosen = drawn_choice(logits, k, dice)
            keep = torch.zeros_like(logits).scatter(1, chosen, 1.0)
            masks = keep.gather(1, partitions.labels.flatten(1)).view(partitions.labels.shape)
            with torch.no_grad():
                losses = self._cross_entropy(canvas, masks, answers, number, whole, step)
            others = (losses.sum() - losses) / (len(losses) - 1)
            surrogate = (losses - others).detach() * choice_log_chances(logits, chosen)
            return surrogate.mean() + (losses.mean() - surrogate.mean()).detach()
        keep = exact_subset(relaxed_subset(logits, k, self.settings.temperature, dice), k)
        masks = keep.gather(1, partitions.labels.flatten(1)).view(partitions.labels.shape)
        return self._cross_entropy(canvas, masks, answers, number, whole, step).mean()

    def _cross_entropy(
        self, canvas: Canvas, masks: Tensor, answers: ImageAnswers, number: int, whole: Tensor, step: int
    ) -> Tensor:
        """(D,) of each mask's answer and the whole image's; differentiable in the masks."""
        views = self._views(canvas, masks, step)
        target = ClassScoreTarget(answers.boxes[number].tolist(), int(answers.labels[number]))
        scores = score_targets([target], self.detector.candidates(views))[0].float()
        scores = LEAST_SCORE + (1 - 2 * LEAST_SCORE) * scores  # a clamp would have no gradient where the box is lost
        return -(whole * scores.log() + (1 - whole) * (1 - scores).log())

    def _views(self, canvas: Canvas, masks: Tensor, step: int) -> Inputs:
        (top, left), (height, width) = canvas.geometry.offset, canvas.size
        inside = (..., slice(top, top + height), slice(left, left + width))
        image, filling = canvas.clean.tensor, canvas.filling[step % len(FILLS), None]
        shown = torch.lerp(filling[inside], image[inside], masks[:, None].to(image))
        tensor = image.expand(len(masks), -1, -1, -1).clone()
        tensor[inside] = shown
        return canvas.clean.with_tensor(tensor)

    def _k(self, n_regions: int, draw: int) -> int:
        wanted = self.settings.k or max(1, round(SIZES[draw % len(SIZES)] * n_regions))
        return min(wanted, n_regions - 1)

    @property
    def _through(self) -> bool:
        return self.settings.gradient == "through"


def region_logits(canvas: Canvas, box: Tensor, chances: Tensor, labels: Tensor, n_regions: int) -> Tensor:
    """(D, n): the logarithm of what each region of D partitions holds of the chances; minus infinity for absent ones.

    Args:
        canvas: the image.
        box: (4,) in its pixels.
        chances: (2, GRID, GRID) of the box's windows.
        labels: (D, height, width) the region of each pixel.
        n_regions: of the partition that has most.
    """
    windows = Windows(canvas.size, box[None])
    density = windows.density(chances[None]).clamp(min=0)[0]
    flat = labels.flatten(1)
    amounts = chances.new_zeros(len(labels), n_regions).scatter_add(1, flat, density.flatten().expand_as(flat))
    there = torch.zeros_like(amounts, dtype=torch.bool).scatter(1, flat, True)
    return amounts.clamp(min=1e-9).log().masked_fill(~there, -torch.inf)


def explained_share(amounts: Tensor, shares: Tensor, parts: Sequence[ImageAnswers]) -> float:
    """How much of the variance of the answers' differences the amounts explain: 1 is all, 0 none, below 0 worse.

    Args:
        amounts, shares: (T, 2, GRID, GRID) of all boxes of the parts, in their order.
        parts: the answers about several images.
    """
    found, expected, start = [], [], 0
    for part in parts:
        mine = slice(start, start + len(part))
        coverage = torch.from_numpy(part.coverage).to(amounts) / LEVELS_OF_GREY
        total = (amounts[mine] * shares[mine]).sum((1, 2, 3))
        found.append(2 * (amounts[mine, None] * coverage).sum((2, 3, 4)) - total[:, None])
        scale = torch.from_numpy(part.whole).to(amounts).clamp(min=LEAST_SCORE)[:, None]
        expected.append(torch.from_numpy(part.shown - part.rest).to(amounts) / scale)
        start += len(part)
    truth, error = torch.cat(expected), torch.cat(expected) - torch.cat(found)
    return float(1 - error.square().sum() / (truth - truth.mean()).square().sum().clamp(min=1e-12))
