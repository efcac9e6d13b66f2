"""D-RISE side by side in one process: the bare forward passes, ours, and Microsoft's algorithm as published."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from detxai.adapters.detector import Detector, Inputs
from detxai.detections import Detections
from detxai.engine.batching import images_at_once
from detxai.engine.masking.scoring import ViewScorer
from detxai.engine.rank_correlation import rank_correlation
from detxai.geometry import box_iou
from detxai.images import Image, load_image, to_tensor
from detxai.methods.d_rise import DRISE, MIN_MASKS
from detxai.targets import SimilarityTarget, Target

PEERS_GRID = 4  # Microsoft's default; and its masks are enlarged without interpolation
PEERS_THRESHOLD = 0.1  # of the detections that its wrappers hand on
ROUNDS = 3  # every way in turn, so that a machine that slows down slows them all


@dataclass(frozen=True)
class Rate:
    """One way to spend forward passes.

    Attributes:
        name: what was run.
        seconds: for one mask, the least over the rounds: what else runs on the machine only ever adds.
        share_of_bare: the bare passes' time over this one's, the median over rounds, each within its round.
        note: what to know when reading the row.
    """

    name: str
    seconds: float
    share_of_bare: float
    note: str = ""

    @property
    def masks_per_second(self) -> float:
        return 1 / self.seconds


def bench_d_rise(
    detector: Detector,
    image: Image,
    detections: Detections,
    *,
    n_masks: int = 64,
    agreement_masks: int = 400,
    batch_size: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> list[Rate]:
    """D-RISE's throughput, beside the limit and a peer's, and how far the two maps agree.

    Args:
        detector: any.
        image: the image to explain.
        detections: the boxes in question, at least one.
        n_masks: of ours, in each round; the peer, which takes one at a time, is timed on an eighth of them.
        agreement_masks: of both, for the comparison of the maps; 0 leaves it out.
        batch_size: for the bare passes and for ours; None: what fits the device.
        seed: of the masks that the two maps are made of.
        say: called with the name of what runs next.

    Raises:
        ValueError: no detections.
    """
    if len(detections) == 0:
        raise ValueError("detections must not be empty: there is nothing to explain")
    prepared = detector.prepare(image)
    size = batch_size or images_at_once(prepared.tensor)
    n_masks = max(size, n_masks // size * size)  # whole batches, as in a long run
    peer_masks = max(1, n_masks // 8)
    sample = DRISE(n_masks=MIN_MASKS, batch_size=size, seed=seed, progress=False).sample(detector, image, detections)
    with torch.no_grad():
        targets = SimilarityTarget.seen_in(detector.candidates(prepared), detections)

    def loop(asked: Sequence[Target]) -> None:
        for _ in ViewScorer(detector, sample.canvas, asked, size).batches(sample.lattice.masks, range(n_masks)):
            pass

    ways: dict[str, tuple[int, Callable[[], object]]] = {
        f"bare passes, {size} at once": (n_masks, lambda: _bare(detector, prepared, size, n_masks)),
        f"our loop, {len(detections)} boxes": (n_masks, lambda: loop(targets)),
        "our loop, 1 box": (n_masks, lambda: loop(targets[:1])),
        "one mask a pass (Microsoft's)": (peer_masks, lambda: published(detector, image, detections, peer_masks, seed)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(-1, ROUNDS):  # the first to warm up
        for name, (n, run) in ways.items():
            say(f"{name}, round {round_ + 1}")
            seconds = _seconds(run, detector.device) / n
            if round_ >= 0:
                times[name].append(seconds)
    bare = next(iter(times.values()))
    rates = [
        Rate(name, min(taken), float(np.median([b / t for b, t in zip(bare, taken, strict=True)])))
        for name, taken in times.items()
    ]
    if agreement_masks:
        say("agreement of the maps")
        rates[-1] = replace(rates[-1], note=_agreement(detector, image, detections, agreement_masks, size, seed))
    return rates


def _bare(detector: Detector, prepared: Inputs, batch_size: int, n: int) -> None:
    """The limit: full passes on a batch that is there already, and nothing else."""
    batch = prepared.with_tensor(prepared.tensor.expand(batch_size, -1, -1, -1).contiguous())
    with detector.borrowed(), torch.no_grad():
        for _ in range(n // batch_size):
            detector.candidates(batch)


def published(
    detector: Detector, image: Image, detections: Detections, n_masks: int, seed: int = 0
) -> list[npt.NDArray[np.float64]]:
    """D-RISE as Microsoft's vision-explanation-methods 0.1.1 computes it: one mask a forward pass, all masks kept.

    A grid of 4 x 4 cells enlarged without interpolation and shifted; detections after suppression, whose class vectors
    are the score and, for each other class, an equal share of the rest; a mask weighs what the most similar detection
    is, less the mean weight; scaled to [0, 1].

    Returns:
        A map (H, W) for each detection, NaN where it is flat.
    """
    generator = np.random.default_rng(seed)
    pixels = to_tensor(load_image(image))
    height, width = pixels.shape[1:]
    masks, weights = [], []
    for _ in range(n_masks):
        mask = _nearest_mask(generator, height, width)
        found = detector.detect(pixels * torch.from_numpy(mask), PEERS_THRESHOLD)
        masks.append(mask)
        if len(found) == 0:
            weights.append(np.zeros(len(detections)))
            continue
        n_classes = max(len(detector.class_names), int(detections.labels.max()) + 1, int(found.labels.max()) + 1)
        asked = _class_vectors(detections, n_classes)
        overlap = box_iou(detections.boxes[:, None].cpu(), found.boxes[None].cpu())
        alike = F.normalize(asked, dim=1) @ F.normalize(_class_vectors(found, n_classes), dim=1).T
        weights.append((overlap * alike).amax(1).numpy())
    maps = []
    for weight in np.stack(weights, 1):
        total = np.zeros((height, width))
        for mask, one in zip(masks, weight - weight.mean(), strict=True):
            total += one * mask
        with np.errstate(invalid="ignore"):
            maps.append((total - total.min()) / (total.max() - total.min()))
    return maps


def _nearest_mask(generator: np.random.Generator, height: int, width: int) -> npt.NDArray[np.float32]:
    cell_y, cell_x = -(-height // PEERS_GRID), -(-width // PEERS_GRID)
    grid = (generator.random((PEERS_GRID + 1, PEERS_GRID + 1)) < 0.5).astype(np.float32)
    whole = grid.repeat(cell_y, 0).repeat(cell_x, 1)
    top, left = generator.integers(cell_y), generator.integers(cell_x)
    return whole[top : top + height, left : left + width]


def _class_vectors(detections: Detections, n_classes: int) -> Tensor:
    scores, labels = detections.scores.cpu(), detections.labels.cpu()
    rest = (1 - scores) / max(n_classes - 1, 1)
    vectors = rest[:, None].expand(-1, n_classes).clone()
    vectors[torch.arange(len(labels)), labels] = scores
    return vectors


def _agreement(detector: Detector, image: Image, detections: Detections, n: int, batch_size: int, seed: int) -> str:
    theirs = published(detector, image, detections, n, seed)
    method = DRISE(n_masks=n, grid=PEERS_GRID, batch_size=batch_size, seed=seed, progress=False)
    ours = method(detector, image, detections)
    found = [
        float(rank_correlation(torch.from_numpy(mine.values)[None], torch.from_numpy(other)[None]))
        for mine, other in zip(ours, theirs, strict=True)
        if np.isfinite(other).all()
    ]
    if not found:
        return "its maps are all flat"
    return f"rank correlation with ours on its grid, {n} masks: median {np.median(found):.2f}, least {min(found):.2f}"


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def as_rate_table(rates: Sequence[Rate]) -> str:
    """The rates, aligned for a terminal."""
    width = max(len(rate.name) for rate in rates)
    head = f"{'':{width}}  masks/s  of bare"
    rows = [f"{r.name:{width}}  {r.masks_per_second:7.2f}  {r.share_of_bare:7.3f}  {r.note}".rstrip() for r in rates]
    return "\n".join([head, *rows])


def as_rate_records(rates: Sequence[Rate]) -> list[dict[str, Any]]:
    """The rates, as JSON can hold them."""
    return [{**asdict(rate), "masks_per_second": rate.masks_per_second} for rate in rates]
