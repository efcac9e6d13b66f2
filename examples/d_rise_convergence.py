"""How many masks does D-RISE need? Each estimate from few masks against plain Monte Carlo with many of another seed.

    python examples/d_rise_convergence.py --model yolov8n.pt --images DIR --out DIR [--n-images 10] [--n-masks 4000]

For each image the scores under ``--n-masks`` masks of two seeds are kept in ``--out``, so a second call goes on where
the first one stopped. The table and the plot give, for each number of masks and way of estimating, the rank
correlation of a map with the plain map of all masks of the other seed, averaged over the boxes of an image and then
over images; the bias is the part of the error that does not go away when the maps of many disjoint sets of masks are
averaged.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import detxai
from detxai.engine.masking.soft.estimating import VARIANCE_REDUCTIONS, VarianceReduction, estimate
from detxai.engine.masking.soft.lattice import Lattice
from detxai.engine.masking.soft.masks import RiseMasks
from detxai.engine.rank_correlation import rank_correlation
from detxai.explanation import replacing

SEEDS = {"tested": 2, "reference": 3}
COLOURS = {"none": "#777777", "control_variate": "#0072b2", "regression": "#d55e00"}
Floats = npt.NDArray[np.floating[Any]]


def scores_of_image(detector: Any, path: Path, n_masks: int, threshold: float, file: Path) -> dict[str, Any] | None:
    """The scores (T, n) of both seeds, and the masks they belong to; None where there are no or many boxes."""
    detections = detector.detect(path, threshold)
    if not 1 <= len(detections) <= 8:
        return None
    if not file.exists():
        samples = {
            name: detxai.DRISE(n_masks=n_masks, seed=seed).sample(detector, path, detections)
            for name, seed in SEEDS.items()
        }
        masks = samples["tested"].lattice.masks
        with replacing(file) as temporary:
            scores = {name: sample.scores.cpu().numpy() for name, sample in samples.items()}
            np.savez(temporary, size=masks.size, grid=masks.grid, **scores)
    with np.load(file) as stored:
        size, grid = (tuple(int(n) for n in stored[name]) for name in ("size", "grid"))
        return {
            name: (Lattice(RiseMasks(size, grid, seed)), torch.from_numpy(stored[name]))  # type: ignore[arg-type]
            for name, seed in SEEDS.items()
        }


def agreement(image: dict[str, Any], n: int, reduction: VarianceReduction) -> float:
    """Mean rank correlation over the boxes of one image."""
    lattice, scores = image["reference"]
    reference = estimate(scores, lattice, variance_reduction="none").values
    lattice, scores = image["tested"]
    values = estimate(scores[:, :n], lattice, variance_reduction=reduction).values
    return float(rank_correlation(values, reference).mean())


def bias(image: dict[str, Any], n: int, reduction: VarianceReduction) -> float:
    """Root mean square bias over root mean square error of maps from n masks, against both seeds together."""
    pieces, truth = [], 0
    for lattice, scores in image.values():
        truth = truth + estimate(scores, lattice).values / 2
        for start in range(0, scores.shape[1], n):
            part = Shifted(lattice.masks.size, lattice.masks.grid, lattice.masks.seed, first=start)
            pieces.append(estimate(scores[:, start : start + n], Lattice(part), variance_reduction=reduction).values)
    errors = torch.stack(pieces) - truth
    return float((errors.mean(0).square().mean() / errors.square().mean()).sqrt())


class Shifted(RiseMasks):
    """Masks that are counted from ``first``."""

    def __init__(self, size: tuple[int, int], grid: tuple[int, int], seed: int, first: int) -> None:
        super().__init__(size, grid, seed)
        object.__setattr__(self, "first", first)

    def cells(self, numbers: torch.Tensor) -> Any:
        return super().cells(numbers + self.first)  # type: ignore[attr-defined]


def plot(counts: Sequence[int], curves: dict[str, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4))
    for name, values in curves.items():
        axes.plot(counts, values, marker="o", color=COLOURS[name], label=name.replace("_", " "))
    axes.axhline(curves["none"][-1], color=COLOURS["none"], linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.set_xlabel("masks")
    axes.set_ylabel(f"rank correlation with {counts[-1]} masks of another seed")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True, type=Path, help="a folder")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--n-images", type=int, default=10)
    parser.add_argument("--n-masks", type=int, default=4000)
    parser.add_argument("--input-size", type=int, default=None)
    parser.add_argument("--score-threshold", type=float, default=0.4)
    given = parser.parse_args(arguments)
    options = {} if given.input_size is None else {"input_size": given.input_size}
    detector = detxai.wrap(given.model, **options)
    given.out.mkdir(parents=True, exist_ok=True)

    images: list[dict[str, Any]] = []
    paths = sorted(p for p in given.images.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for place in np.random.default_rng(0).permutation(len(paths)):
        if len(images) == given.n_images:
            break
        path = paths[place]
        image = scores_of_image(detector, path, given.n_masks, given.score_threshold, given.out / f"{path.stem}.npz")
        if image is not None:
            images.append(image)
            print(f"{len(images)} of {given.n_images}: {path.name}", flush=True)

    counts = [given.n_masks // 2**k for k in range(4, -1, -1)]
    curves = {
        r: [float(np.mean([agreement(one, n, r) for one in images])) for n in counts] for r in VARIANCE_REDUCTIONS
    }
    quarter = given.n_masks // 4
    biases = {r: float(np.mean([bias(one, quarter, r) for one in images])) for r in VARIANCE_REDUCTIONS}
    print(f"{'':16s}" + "".join(f"{n:>8d}" for n in counts) + f"   bias at {quarter}")
    for name, values in curves.items():
        print(f"{name:16s}" + "".join(f"{value:8.3f}" for value in values) + f"   {biases[name]:.2f} of the error")
    record = {"n_images": len(images), "masks": counts, "rank_correlation": curves, "bias_share": biases}
    with replacing(given.out / "convergence.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    plot(counts, curves, given.out / "convergence.png")
    return record


if __name__ == "__main__":
    main()
