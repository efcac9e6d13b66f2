"""Shapley values of regions, as densities that are averaged over random partitions until they are known well enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.paths import Paths, follow
from detxai.engine.masking.regions import random_partitions, split_regions
from detxai.engine.masking.scoring import ViewScorer

FIRST_DRAWS = 2  # of each box before anything is known of its error
PIXELS_AT_ONCE = 2**26  # of partitions in memory, eight bytes each
DRAWS_APART = 2**20  # numbers between the draws of one box and those of the next


@dataclass(eq=False)
class Densities:
    """What T boxes' draws have come to: their sum, and the sum of their squares.

    A *draw* is one antithetic pair of paths under each filling, each pair through a partition of its own; its density
    is the mean of theirs. Draws of a box are independent and alike.

    Attributes:
        sums, squares: (T, h, w), over draws, of the density and of its square.
        n_draws: (T,) int64.
        n_views: (T,) int64, views of the image that the draws asked for.
        hidden: (T, F), the score with nothing shown, for each filling.
        whole: (T,), the score of the whole image.
    """

    sums: Tensor
    squares: Tensor
    n_draws: Tensor
    n_views: Tensor
    hidden: Tensor
    whole: Tensor

    @classmethod
    def empty(cls, size: tuple[int, int], hidden: Tensor, whole: Tensor) -> Densities:
        n = len(whole)
        none = torch.zeros(n, *size, dtype=torch.float32, device=whole.device)
        count = torch.zeros(n, dtype=torch.long, device=whole.device)
        return cls(none, none.clone(), count, count.clone(), hidden, whole)

    def add(self, targets: Tensor, draws: Tensor, n_views: Tensor) -> None:
        """Take in D draws (D, h, w) of the boxes ``targets`` (D,) that asked for ``n_views`` (D,)."""
        self.sums.index_add_(0, targets, draws)
        self.squares.index_add_(0, targets, draws.square())
        self.n_draws.index_add_(0, targets, torch.ones_like(targets))
        self.n_views.index_add_(0, targets, n_views)

    @property
    def mean(self) -> Tensor:
        """(T, h, w): the density of the Shapley values, in units of the score a pixel."""
        return self.sums / self.n_draws.clamp(min=1)[:, None, None]

    @property
    def standard_error(self) -> Tensor:
        """(T, h, w): of the mean; infinite where there are fewer than two draws."""
        n = self.n_draws[:, None, None]
        variance = (self.squares / n.clamp(min=1) - self.mean.square()).clamp(min=0)
        return torch.where(n > 1, (variance / (n - 1).clamp(min=1)).sqrt(), torch.inf)

    @property
    def expected_correlation(self) -> Tensor:
        """(T,) in [0, 1]: how well the mean of as many other draws would correlate with this one."""
        noise, spread = self.standard_error.square().mean((1, 2)), self.mean.flatten(1).var(1)
        share = noise / spread.clamp(min=torch.finfo(spread.dtype).tiny)
        return torch.where((spread > 0) & (self.n_draws > 1), 1 - share, 0).clamp(0, 1)

    def records(self) -> list[dict[str, Any]]:
        """What became of each box, as JSON can hold it."""
        columns = {
            "clean_score": self.whole,
            "hidden_scores": self.hidden,
            "n_draws": self.n_draws,
            "n_views": self.n_views,
            "expected_correlation": self.expected_correlation,
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]


@dataclass(frozen=True, eq=False)
class ShapleySampler:
    """Draws of any of T boxes, and their densities.

    Attributes:
        scorer: of T targets.
        boxes: (T, 4) xyxy in pixels of the canvas.
        tolerance: changes of the score below this share of the whole image's are not refined.
        explore: chance that one is refined all the same, for gains without bias.
        seed: of partitions and orders.
        refine: regions of each partition to split where the density so far is largest.
    """

    scorer: ViewScorer
    boxes: Tensor
    tolerance: float
    explore: float
    seed: int
    refine: int

    @property
    def canvas(self) -> Canvas:
        return self.scorer.canvas

    def start(self) -> Densities:
        """No draws yet: only the scores of the whole image and of nothing but filling."""
        return Densities.empty(self.canvas.size, *self.scorer.ends())

    def draw(self, known: Densities, n_draws: Tensor, max_views: int) -> None:
        """Add ``n_draws`` (T,) more draws of each box to what is known; all their open questions are one batch.

        Args:
            known: what is added to.
            n_draws: (T,) int64.
            max_views: for all of them together: what is not asked then is taken to change evenly.
        """
        which = torch.arange(len(n_draws), device=n_draws.device).repeat_interleave(n_draws)
        if not len(which):
            return
        number = torch.arange(len(which), device=which.device) - (n_draws.cumsum(0) - n_draws)[which]
        number = number + known.n_draws[which] + DRAWS_APART * which
        at_once = max(1, PIXELS_AT_ONCE // (len(self.canvas.filling) * self.canvas.size[0] * self.canvas.size[1]))
        for part in torch.arange(len(which), device=which.device).split(at_once):
            densities, n_views = self._densities(known, which[part], number[part], max_views)
            max_views -= int(n_views.sum())
            known.add(which[part], densities, n_views)

    def _densities(self, known: Densities, which: Tensor, number: Tensor, max_views: int) -> tuple[Tensor, Tensor]:
        """The densities (D, h, w) of draws by number, of the boxes ``which`` (D,), and the views (D,) they took."""
        n_fills = len(self.canvas.filling)
        pair = (number[:, None] * n_fills + torch.arange(n_fills, device=number.device)).flatten()
        of_pair = which.repeat_interleave(n_fills)
        fills = torch.arange(n_fills, device=which.device).repeat(len(which))
        partitions = random_partitions(self.canvas.size, self.boxes[of_pair], pair, self.seed)
        if self.refine:
            partitions = split_regions(partitions, known.mean[of_pair], self.refine)
        paths = Paths.draw(partitions, pair, of_pair, fills, self.seed + 1)
        hidden, whole = known.hidden[paths.targets, paths.fills], known.whole[paths.targets]
        found = follow(
            paths,
            self._ask,
            hidden,
            whole,
            self.tolerance * whole,
            explore=self.explore,
            seed=self.seed + 2,
            max_views=max_views,
        )
        densities = found.densities().unflatten(0, (len(which), n_fills)).mean(1)
        return densities, found.n_views.unflatten(0, (len(which), -1)).sum(1)

    def _ask(self, paths: Paths, path: Tensor, shown: Tensor) -> Tensor:
        """(Q,) the score of each path's own target after so many of its regions."""
        return self.scorer.own_under_masks(
            lambda numbers: paths.masks(path[numbers], shown[numbers]),
            torch.arange(len(path), device=self.boxes.device),
            paths.targets[path],
            paths.fills[path],
        )


def spend_views(
    sampler: ShapleySampler,
    known: Densities,
    max_views: int,
    settled: float = 1.0,
    on_round: Callable[[], object] | None = None,
) -> None:
    """Draw until every box is settled or the views are spent, most where the error is largest.

    Each round spends half of what is left, shared out among the boxes in proportion to what they lack: a hard box gets
    the views that easy ones did not need. ``known`` holds all that is finished at any moment.

    Args:
        sampler: of T boxes.
        known: what is known of them; the draws are added to it.
        max_views: for all boxes together.
        settled: the expected correlation in [0, 1] from which a box needs no more.
        on_round: called after every round that leaves more to draw, when ``known`` holds it.
    """
    wanted = known.whole > 0
    sampler.draw(known, torch.where(wanted, FIRST_DRAWS - known.n_draws, 0).clamp(min=0), max_views)
    while (left := max_views - int(known.n_views.sum())) > 0:
        lacking = (settled - known.expected_correlation).clamp(min=0) * (wanted & (known.n_views > 0))
        if not bool((lacking > 0).any()):
            return
        if on_round is not None:
            on_round()
        cost = known.n_views / known.n_draws.clamp(min=1)
        draws = (lacking / lacking.sum() * left / 2 / cost.clamp(min=1)).round().long()
        if not bool((draws > 0).any()):
            hardest = int(lacking.argmax())
            if float(cost[hardest]) > left:
                return
            draws[hardest] = 1
        sampler.draw(known, draws, left)


def join(known: Densities, priors: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """``(sum of the draws + sum of k P) / (n + sum of k)``, (T, h, w), and its standard error from the draws.

    Args:
        known: the n draws of each of T boxes.
        priors: how many draws k (T,) each prior counts as, and the prior (T, h, w); at least one. Without draws, and
            where no prior counts, the first one is all there is.
    """
    counts = torch.stack([count for count, _ in priors])
    counts[0] = torch.where((known.n_draws == 0) & (counts.sum(0) == 0), 1, counts[0])
    n, weight = known.n_draws.to(known.sums), counts.to(known.sums)
    joined = known.sums + torch.einsum("pt,pthw->thw", weight, torch.stack([map_ for _, map_ in priors]))
    whole = (n + weight.sum(0))[:, None, None]
    errors = torch.where(n[:, None, None] > 1, known.standard_error, 0) * n[:, None, None] / whole
    return joined / whole, errors


def density_per_image_pixel(canvas: Canvas, densities: Tensor) -> Tensor:
    """Densities (T, h, w) over the canvas's pixels, as densities (T, H, W) over the original image's.

    Resampling nearly keeps a map's sum, which is a difference of two scores; here it is kept to rounding.
    """
    maps = canvas.to_image(densities)
    sums, kept = densities.sum((1, 2), dtype=torch.float64), maps.sum((1, 2), dtype=torch.float64)
    scale = densities[0].numel() / maps[0].numel()
    exact = torch.where((kept * scale - sums).abs() < 0.2 * sums.abs(), sums / kept, scale)
    return maps * exact[:, None, None].to(maps)
