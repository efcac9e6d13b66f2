"""Random subsets of a box's regions: those that a Shapley regression needs, and a relaxed choice of exactly k."""

from __future__ import annotations

import torch
from torch import Tensor

from detxai.engine.masking.regions import Partitions, random_partitions
from detxai.engine.masking.soft.masks import uniforms


def shapley_subsets(size: tuple[int, int], box: Tensor, numbers: Tensor, seed: int) -> Tensor:
    """Random subsets of a box's regions, by the Shapley kernel, each of a partition of its own.

    Of n regions s are shown with a chance in proportion to ``1 / (s (n - s))``, each set of s alike. With the subset's
    complement beside it, the least-squares fit of an additive function has the Shapley values as its answer.

    Args:
        size: (height, width) of the canvas.
        box: (4,) xyxy in its pixels.
        numbers: (V,) int64, which subsets; number i depends on (seed, i) and the box alone.
        seed: of all of them.

    Returns:
        (V, height, width) bool: True where the image is shown; neither all nor nothing.

    Source: Lundberg and Lee, 2017 (NeurIPS), the kernel; Covert and Lee, 2021 (AISTATS), complements in pairs.
    """
    partitions = random_partitions(size, box.expand(len(numbers), 4), numbers, seed)
    shown = kernel_subsets(partitions.counts, partitions.most_regions, numbers, seed)
    return shown.gather(1, partitions.labels.flatten(1)).view_as(partitions.labels)


def kernel_subsets(counts: Tensor, most: int, numbers: Tensor, seed: int) -> Tensor:
    """(V, most) bool, the regions that are shown of the first ``counts`` (V,): see ``shapley_subsets``."""
    regions = torch.arange(most, device=counts.device)
    there = regions < counts[:, None]
    weights = torch.where((regions > 0) & there, 1 / (regions * (counts[:, None] - regions)).clamp(min=1), 0.0)
    chances = (weights / weights.sum(1, keepdim=True).clamp(min=1e-12)).cumsum(1)
    drawn = uniforms(seed + 1, numbers, torch.arange(most + 1, device=counts.device))
    # number s is taken where the draw lies between the chances of fewer than s and of s
    n_shown = (chances < drawn[:, :1]).sum(1).clamp(min=1).minimum((counts - 1).clamp(min=1))
    order = drawn[:, 1:].masked_fill(~there, 2).argsort(1).argsort(1)
    return order < n_shown[:, None]


def partition_regions(partitions: Partitions) -> Tensor:
    """(V, N, height, width) float32, each region of each partition as a mask of its own; zeros beyond its regions."""
    regions = torch.arange(partitions.most_regions, device=partitions.labels.device)
    return (partitions.labels[:, None] == regions[:, None, None]).float()


def relaxed_subset(logits: Tensor, k: int, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """A random choice of k of n, relaxed: (..., n) in [0, 1], sums to k, differentiable in the logits.

    Gumbel noise is added to the logits; then k softmaxes are taken in turn, each of which all but leaves out what those
    before it took. As the temperature goes to 0 this is k draws without replacement, in proportion to
    ``exp(logits)``.

    Args:
        logits: (..., n); minus infinity for what can never be chosen.
        k: from 1 to the number of finite logits.
        temperature: above 0.
        generator: of the noise.

    Source: Chen et al., 2018, L2X (ICML), section 3.2, the Gumbel-softmax relaxation; Xie and Ermon, 2019 (IJCAI),
    draws without replacement. L2X takes the largest of k independent relaxed draws, which may coincide: at most k.
    """
    noise = torch.rand(logits.shape, generator=generator, device=logits.device).clamp(1e-10, 1 - 1e-7)
    keys = logits - (-noise.log()).log()
    chosen = torch.zeros_like(logits)
    for _ in range(k):
        share = torch.softmax(keys / temperature, -1)
        chosen = chosen + share
        keys = keys + (1 - share).clamp(min=1e-6).log()
    return chosen


def exact_subset(relaxed: Tensor, k: int) -> Tensor:
    """(..., n): 1 for the k largest of ``relaxed`` and 0 else; gradients go on as if it were ``relaxed`` itself."""
    hard = torch.zeros_like(relaxed).scatter(-1, relaxed.topk(k, -1).indices, 1.0)
    return hard + relaxed - relaxed.detach()


def drawn_choice(logits: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """(..., k) int64: k of n drawn one after the other without replacement, in proportion to ``exp(logits)``."""
    noise = torch.rand(logits.shape, generator=generator, device=logits.device).clamp(1e-10, 1 - 1e-7)
    return (logits.detach() - (-noise.log()).log()).topk(k, -1).indices


def choice_log_chances(logits: Tensor, chosen: Tensor) -> Tensor:
    """(...): the logarithm of the chance to draw ``chosen`` (..., k) in this order, differentiable in the logits."""
    found = logits.gather(-1, chosen)
    left = logits
    total = torch.zeros_like(found[..., 0])
    for place in range(chosen.shape[-1]):
        total = total + found[..., place] - left.logsumexp(-1)
        left = left.scatter(-1, chosen[..., place : place + 1], -torch.inf)
    return total
