"""Projected gradient descent on the pixels of one image, in a ball around it, at some of its pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from detxai.adapters.detector import Features, Inputs
from detxai.adapters.network import NetworkDetector
from detxai.engine.attacks.goals import AttackGoal
from detxai.engine.batching import images_at_once, in_batches
from detxai.engine.gradients import NoGradientsError
from detxai.engine.pixel_versions import PixelVersions
from detxai.images import Image
from detxai.progress import progress_bar

Norm = Literal["linf", "l2"]
NORMS: tuple[Norm, ...] = get_args(Norm)
EPSILON_LINF = 8 / 255
EPSILON_L2 = 2 / 255  # root mean square over all values of the image
STEP = 2.5  # times epsilon / steps: far enough to reach the ball's surface and to walk along it
GRADIENTS = 4  # times the memory of a plain pass that one with its graph takes, about


@dataclass(frozen=True)
class PGD:
    """The strongest change of an image within a ball that projected gradient descent finds.

    Each step goes against the gradient of the goal's loss (its sign for ``"linf"``, its direction for ``"l2"``), then
    back into the ball around the image and into [0, 1]. The best of all steps is kept, not the last.

    Args:
        norm: ``"linf"``: no value changes by more than epsilon; ``"l2"``: the Euclidean norm of the whole change is at
            most epsilon. Values lie in [0, 1].
        epsilon: None: 8/255 for ``"linf"``; for ``"l2"`` the norm of a change by 2/255 of every value of the image.
        steps: gradients taken.
        random_start: start at a random point of the ball; False: at the image itself.
        seed: of the start.
        progress: a bar; None: where standard error is a terminal.

    Raises:
        ValueError: a setting is wrong.

    Source: Madry et al., 2018, Towards deep learning models resistant to adversarial attacks (ICLR); steps of
    ``2.5 epsilon / steps`` as there. Differs in the loss, which is of one box, and in keeping the best step.
    """

    norm: Norm = "linf"
    epsilon: float | None = None
    steps: int = 20
    random_start: bool = True
    seed: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {list(NORMS)}, got {self.norm!r}")
        if self.epsilon is not None and not 0 < self.epsilon < float("inf"):
            raise ValueError(f"epsilon must be a finite number above 0, or None, got {self.epsilon!r}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps must be a whole number from 1, got {self.steps!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be a whole number from 0, got {self.seed!r}")

    def radius(self, image_size: tuple[int, int]) -> float:
        """Epsilon for an image of this (height, width)."""
        if self.epsilon is not None:
            return self.epsilon
        return EPSILON_LINF if self.norm == "linf" else EPSILON_L2 * (3 * image_size[0] * image_size[1]) ** 0.5

    def __call__(
        self,
        detector: NetworkDetector,
        image: Image | Inputs | Features,
        goal: AttackGoal,
        masks: Tensor | None = None,
    ) -> Tensor:
        """The attacked images (M, 3, H, W) in [0, 1] of the original image's size, one for each mask.

        Args:
            detector: what is attacked.
            image: one image.
            goal: what the attack is for.
            masks: (M, H, W) bool: the pixels that each attack may change; None: one attack, at any pixel.

        Raises:
            NoGradientsError: the model has none.
            ValueError: a mask is not of the image's size, or allows no pixel; or the model prepares images in a way
                that pixels cannot be traced through.
        """
        with detector.borrowed():
            versions = PixelVersions.of_image(detector, image)
            height, width = versions.pixels.shape[-2:]
            allowed = checked_masks(masks, (height, width)).to(versions.pixels.device)
            size = max(1, images_at_once(versions.clean.tensor) // GRADIENTS)
            numbers = torch.arange(len(allowed), device=allowed.device)
            run = _Descent(self, detector, versions, goal)
            with progress_bar(self.progress, self.steps * len(allowed), "attacking", "step") as bar:
                parts = in_batches(numbers, size, lambda part: run.best(allowed[part], int(part[0]), bar.update))
                return torch.cat([found for _, found in parts])


def checked_masks(masks: Tensor | None, size: tuple[int, int]) -> Tensor:
    """(M, H, W) bool: these masks, or one of all pixels.

    Raises:
        ValueError: one is not of this (height, width), or is empty.
    """
    if masks is None:
        return torch.ones(1, *size, dtype=torch.bool)
    masks = torch.as_tensor(masks)
    if masks.ndim != 3 or tuple(masks.shape[1:]) != size or masks.dtype != torch.bool:
        raise ValueError(f"masks must be bool (M, {size[0]}, {size[1]}), got {masks.dtype} {tuple(masks.shape)}")
    if not bool(masks.flatten(1).any(1).all()):
        raise ValueError("masks must allow at least one pixel each, got one without any")
    return masks


class _Descent:
    """The descents of several masks at once; each is independent of the others."""

    def __init__(self, settings: PGD, detector: NetworkDetector, versions: PixelVersions, goal: AttackGoal) -> None:
        self.settings, self.detector, self.versions, self.goal = settings, detector, versions, goal
        self.radius = settings.radius((versions.pixels.shape[-2], versions.pixels.shape[-1]))

    def best(self, masks: Tensor, first: int, advance: Callable[[int], object]) -> Tensor:
        """(M, 3, H, W): of each mask (M, H, W), the version with the lowest loss of all steps."""
        clean, allowed = self.versions.pixels, masks[:, None].to(self.versions.pixels)
        best = clean.expand(len(masks), -1, -1, -1).clone()
        lowest = torch.full((len(masks),), torch.inf, device=clean.device)
        for versions, losses in self._steps(allowed, first):
            better = losses < lowest
            best[better], lowest[better] = versions[better], losses[better]
            advance(len(masks))
        return best

    def _steps(self, allowed: Tensor, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Each step's versions (M, 3, H, W) and their losses (M,), the last step's too."""
        clean = self.versions.pixels
        change = self._start(allowed, first)
        for step in range(self.settings.steps + 1):
            versions = (clean + change).detach().requires_grad_(step < self.settings.steps)
            with torch.enable_grad():
                losses = self.goal.loss(self.detector.candidates(self.versions.inputs(versions)))
            yield versions.detach(), losses.detach().float()
            if step == self.settings.steps:
                return
            if not losses.requires_grad:
                raise NoGradientsError("model must have gradients to be attacked, got none")
            (gradient,) = torch.autograd.grad(losses.sum(), versions)
            change = self._project(change - self._direction(gradient * allowed) * allowed, clean)

    def _start(self, allowed: Tensor, first: int) -> Tensor:
        clean = self.versions.pixels
        change = torch.zeros_like(clean).expand(len(allowed), -1, -1, -1)
        if not self.settings.random_start:
            return change
        starts = []
        for mask in range(len(allowed)):  # each mask its own numbers, however many are attacked at once
            dice = torch.Generator().manual_seed(self.settings.seed + first + mask)
            starts.append(torch.rand(change.shape[1:], generator=dice) * 2 - 1)
        start = torch.stack(starts).to(clean) * allowed
        if self.settings.norm == "linf":
            return self._project(start * self.radius, clean)
        return self._project(start / _norms(start) * self.radius / 2, clean)

    def _direction(self, gradient: Tensor) -> Tensor:
        """One step uphill."""
        length = STEP * self.radius / self.settings.steps
        return length * (gradient.sign() if self.settings.norm == "linf" else gradient / _norms(gradient))

    def _project(self, change: Tensor, clean: Tensor) -> Tensor:
        """Into the ball and into [0, 1]; clipping to [0, 1] moves towards the image and so stays in the ball."""
        if self.settings.norm == "linf":
            change = change.clamp(-self.radius, self.radius)
        else:
            change = change * (self.radius / _norms(change)).clamp(max=1)
        return (clean + change).clamp(0, 1) - clean


def _norms(change: Tensor) -> Tensor:
    """(M, 1, 1, 1) Euclidean norms, of zeros a tiny one."""
    return change.flatten(1).norm(dim=1).clamp(min=torch.finfo(change.dtype).tiny)[:, None, None, None]


def rounded_within(image: Tensor, attacked: Tensor, norm: Norm, radius: float) -> Tensor:
    """Attacked images as a file holds them: uint8, and still in the ball around the image.

    Values are rounded to the nearest whole number; where that leaves the ball, towards the image.

    Args:
        image: (3, H, W) uint8.
        attacked: (M, 3, H, W) in [0, 1].
        norm: of the ball.
        radius: of the ball.

    Returns:
        (M, 3, H, W) uint8.
    """
    change = attacked.double().cpu() * 255 - image.cpu()
    nearest, towards = change.round(), change.trunc()
    limit = radius * 255 + 1e-9
    if norm == "linf":
        kept = torch.where(nearest.abs() <= limit, nearest, towards)
    else:
        kept = torch.where((_norms(nearest) <= limit), nearest, towards)
    return (image.cpu() + kept).clamp(0, 255).to(torch.uint8)
