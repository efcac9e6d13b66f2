"""How few channels will do? The ratio against agreement with all channels, and against time, on your own images.

    python examples/ablation_ratio.py --model yolov8n.pt photos/*.jpg
    python examples/ablation_ratio.py --model my_module:build --n-images 20 photos/*.jpg --json ratio.json

For each ratio: channels ablated, rank correlation of every box's map with the map of all channels (mean and worst tenth
over boxes), and time as a share of all channels' time. Images without detections are passed over.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

from detxai.adapters.loading import load_detector
from detxai.engine.ablation.channels import n_to_ablate
from detxai.engine.rank_correlation import rank_correlation
from detxai.methods.ablation_cam import AblationCAM

RATIOS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--n-images", type=int, default=20)
    parser.add_argument("--rankings", nargs="+", default=["tracked"])
    parser.add_argument(
        "--unablated-weights",
        choices=["tracked", "first_order", "zero"],
        default="tracked",
        help="what the others weigh",
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    detector = load_detector(given.model)
    rows: dict[tuple[str, float], list[tuple[float, float, int]]] = {}
    n_done = 0
    for path in sorted(given.images):
        found = detector.detect(path)
        if len(found) == 0 or n_done == given.n_images:
            continue
        n_done += 1
        whole = AblationCAM(progress=False)(detector, path, found)
        for ranking in given.rankings:
            for ratio in RATIOS:
                method = AblationCAM(
                    ratio_channels_to_ablate=ratio,
                    ranking=ranking,
                    unablated_weights=given.unablated_weights,
                    progress=False,
                )
                for a, b in zip(whole, method(detector, path, found), strict=True):
                    agreement = float(rank_correlation(*(torch.from_numpy(e.values)[None] for e in (a, b))))
                    effects = torch.as_tensor(b.channel_effects)
                    n_ablated, expected = int((~effects.isnan()).sum()), n_to_ablate(ratio, len(effects))
                    assert n_ablated == expected, f"ratio {ratio} ablated {n_ablated} channels, not {expected}"
                    share = b.cost.seconds / a.cost.seconds
                    rows.setdefault((ranking, ratio), []).append((agreement, share, n_ablated))
    print(f"{n_done} images, {len(next(iter(rows.values())))} boxes")
    print(f"{'ranking':<12} {'ratio':>6} {'channels':>9} {'rank corr.':>11} {'worst tenth':>12} {'time':>6}")
    table = []
    for (ranking, ratio), entries in rows.items():
        agreements = sorted(entry[0] for entry in entries)
        row = {
            "ranking": ranking,
            "ratio": ratio,
            "channels": entries[0][2],
            "rank_correlation": statistics.mean(agreements),
            "worst_tenth": agreements[len(agreements) // 10],
            "time_share": statistics.median(entry[1] for entry in entries),
        }
        table.append(row)
        print(
            f"{ranking:<12} {ratio:>6} {row['channels']:>9} {row['rank_correlation']:>11.3f} "
            f"{row['worst_tenth']:>12.3f} {row['time_share']:>6.2f}"
        )
    if given.json:
        given.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
