"""Are RegionShapley and PixelEvidence on this GPU the same as on the CPU, how fast, and how large? Under five minutes.

    python examples/pixel_evidence_gpu.py [--device cuda] [--small] [--json FILE]

Exactness first, in float64, of the bundled Faster R-CNN, which is trained (random weights enlarge the last digit of an
image): the same partitions and orders, bit for bit, and the same maps; it ends with an error where they are not. Then,
in float32 with TF32 off, views a second beside bare passes of the same batch size and the peak memory, of 300 and 1,500
passes a box for the bundled one and, where ultralytics is installed, a YOLOv8n at 640 pixels, and of 300 for a Faster
R-CNN ResNet-50 at 800. The weights of those two are seeded: nothing is downloaded. Needs d_rise_gpu.py beside it.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from d_rise_gpu import boxes, detectors, trained, wrapped
from torch import Tensor

import detxai
from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.fine import FineMasks
from detxai.engine.masking.paths import Paths
from detxai.engine.masking.regions import random_partitions
from detxai.engine.masking.scoring import ViewScorer
from detxai.engine.masking.soft.image_masks import masks_for
from detxai.engine.masking.soft.traced import trace_masks
from detxai.targets import ClassScoreTarget

TOLERANCE = 1e-5  # of the score, over all pixels: densities are kept in float32


def drawn(asked: Tensor, device: torch.device) -> list[Tensor]:
    """The regions of 32 partitions and the places of their regions in their orders, made on a device."""
    numbers = torch.arange(32, device=device)
    partitions = random_partitions((120, 160), asked.to(device)[numbers % len(asked)], numbers, seed=3)
    none = torch.zeros_like(numbers)
    paths = Paths.draw(partitions, numbers, none, none, seed=4)
    return [one.cpu() for one in (partitions.labels, partitions.counts, paths.place)]


def fine(device: torch.device) -> Tensor:
    """40 fine masks over what is high in two maps, made on a device."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 6, 8, generator=generator).repeat_interleave(20, 1).repeat_interleave(20, 2)
    return FineMasks.over(maps.to(device), 20, seed=5)(torch.arange(40, device=device)).cpu()


def gradients(detector: Any, image: Tensor, found: detxai.Detections, batch_size: int) -> Tensor:
    """The slopes of twelve soft masks, traced back."""
    canvas = Canvas.with_fill(detector, image, "mean")
    scorer = ViewScorer(detector, canvas, ClassScoreTarget.of(found), batch_size=batch_size)
    asked = canvas.geometry.boxes_to_input(found.boxes.to(canvas.clean.tensor.device))
    traced = trace_masks(scorer, masks_for(canvas, asked, 0), 12)
    if traced is None:
        raise RuntimeError("the detector must have gradients, and has none")
    return traced.slopes.values.cpu()


def exactness(model: Any, image: Tensor, device: torch.device, n_passes: int, batch_size: int) -> dict[str, float]:
    """How many partitions and orders differ from the CPU's; how far fine masks are apart, and maps, over the score."""
    asked = torch.tensor([[10.3, 20.7, 90.1, 80.9], [0.0, 0.0, 159.0, 119.0], [60.5, 3.5, 64.5, 9.5]])
    pairs = zip(drawn(asked, torch.device("cpu")), drawn(asked, device), strict=True)
    differences = {"partitions and orders": float(sum(int((here != there).sum()) for here, there in pairs))}
    differences["fine masks"] = float((fine(torch.device("cpu")) - fine(device)).abs().max())
    model = copy.deepcopy(model).double()
    found = boxes(wrapped(model, image), image, 1)
    # two whole draws without what a score's last digit could decide: which regions to split, whether soft masks join,
    # and which views to leave out because little changes or because the passes run out
    given: dict[str, Any] = {"fill": "mean", "refine": 0, "batch_size": batch_size, "progress": False}
    shapley = detxai.RegionShapley(n_passes, tolerance=0.0, **given)
    evidence = detxai.PixelEvidence(n_passes, ignore_below=0.0, mask_draws=0.0, **given)
    on_device = copy.deepcopy(model).to(device)
    here, there = (gradients(wrapped(one, image), image, found, batch_size) for one in (model, on_device))
    differences["gradients"] = float((here - there).abs().sum() / here.sum())
    for method in (shapley, evidence):
        (here,), (there,) = (method(wrapped(one, image), image, found) for one in (model, on_device))
        apart = float(abs(here.values - there.values).sum())
        differences[method.name] = apart / max(here.details["clean_score"], 1e-12)
    return differences


def too_large(found: dict[str, float]) -> list[str]:
    """What differs by more than rounding explains."""
    return [name for name, value in found.items() if value > (0 if name == "partitions and orders" else TOLERANCE)]


def bare_rate(detector: Any, image: Tensor, batch_size: int, n: int) -> float:
    """Full passes a second on a batch that is there already."""
    prepared = detector.prepare(image)
    batch = replace(
        prepared,
        tensor=prepared.tensor.expand(batch_size, -1, -1, -1).contiguous(),
        geometries=prepared.geometries * batch_size,
        images=prepared.images * batch_size,
    )
    with detector.borrowed(), torch.no_grad():
        detector.candidates(batch)  # warm up
        wait(detector.device)
        start = time.perf_counter()
        for _ in range(max(1, n // batch_size)):
            detector.candidates(batch)
        wait(detector.device)
    return max(1, n // batch_size) * batch_size / (time.perf_counter() - start)


def whole_map(method: Any, detector: Any, image: Tensor, n_boxes: int) -> dict[str, float]:
    """Views a second, and the peak bytes of one call."""
    found = boxes(detector, image, n_boxes)
    cuda = detector.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    cost = method(detector, image, found)[0].cost  # its maps come to the host, so it has ended
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    return {"passes": cost.forward_passes, "passes_per_second": cost.forward_passes / seconds, "peak_bytes": peak}


def speed(detector: Any, image: Tensor, n_passes: tuple[int, ...], batch_size: int, n_boxes: int) -> dict[str, Any]:
    """Both methods beside bare passes, all with the same number of images at once."""
    found: dict[str, Any] = {"bare_passes_per_second": bare_rate(detector, image, batch_size, n_passes[0])}
    print(f"bare passes, {batch_size} at once: {found['bare_passes_per_second']:.1f} a second", flush=True)
    given: dict[str, Any] = {"batch_size": batch_size, "progress": False}
    if detector.device.type == "cuda":
        whole_map(detxai.PixelEvidence(n_passes[0], **given), detector, image, 1)  # warm up: kernels, solvers
    for n in n_passes:  # all of them: nothing is too small to be asked about
        for method in (detxai.RegionShapley(n, 0.0, **given), detxai.PixelEvidence(n, 1e-9, ignore_below=0.0, **given)):
            one = whole_map(method, detector, image, n_boxes)
            found[f"{method.name}, {n} passes"] = one
            share, peak = one["passes_per_second"] / found["bare_passes_per_second"], one["peak_bytes"] / 2**20
            print(
                f"{method.name}, {n_boxes} boxes, at most {n} passes each: {one['passes']} passes, "
                f"{one['passes_per_second']:.1f} a second, {share:.2f} of bare; at most {peak:.0f} MB",
                flush=True,
            )
    return found


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="small images and few passes: seconds on a CPU")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    n_passes, batch_size, n_boxes = ((144,), 16, 1) if given.small else ((300, 1500), 64, 5)

    record: dict[str, Any] = {"device": str(device), "torch": torch.__version__}
    if device.type == "cuda":
        record["name"] = torch.cuda.get_device_name(device)
    wrong: list[str] = []
    for name, (model, image) in (detectors(True) if given.small else trained()).items():  # a CPU has to make the same
        found = record.setdefault("exactness", {})[name] = exactness(model, image, device, n_passes[0], batch_size)
        print(name, found, flush=True)
        wrong += [f"{name}: {what}" for what in too_large(found)]
    for name, (model, image) in (detectors(True) if given.small else trained() | detectors(False)).items():
        print(name, flush=True)
        large = name == "fasterrcnn_resnet50_fpn"
        asked = (n_passes[:1], batch_size, 2) if large else (n_passes, batch_size, n_boxes)
        rates = speed(wrapped(model.to(device), image), image, *asked)
        record.setdefault("speed", {})[name] = rates
    if given.json is not None:
        given.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if wrong:
        raise SystemExit(f"more than rounding apart from the CPU: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
