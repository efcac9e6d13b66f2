"""Is D-RISE on this GPU the same as on the CPU, how fast is it, and how large may it grow? Under five minutes.

    python examples/d_rise_gpu.py [--device cuda] [--small] [--json FILE]

Exactness first, in float64, of the bundled Faster R-CNN, which is trained (random weights enlarge the last digit of an
image): the same masks, scores and map as on the CPU. Then, with TF32 off, for a Faster R-CNN ResNet-50 at 800 pixels
and, where ultralytics is installed, a YOLOv8n at 640, with seeded weights: throughput against bare passes and against
one mask a pass, with 1 and 20 boxes; 500 masks of a whole map, in float32, in bf16 and with channels last; and the
YOLO's peak memory under 500 and under 20,000 masks. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import detxai
from detxai.adapters.torchvision.spread import spread_like_trained
from detxai.bench.d_rise import as_rate_table, bench_d_rise
from detxai.engine.masking.soft.masks import RiseMasks
from detxai.scenes import generate
from detxai.scenes.detectors.frcnn import load_frcnn
from detxai.scenes.training.dataset import image_tensor


def photo(height: int, width: int) -> Tensor:
    """A seeded (3, height, width) image of smooth blobs."""
    coarse = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1)


def detectors(small: bool) -> dict[str, tuple[Any, Tensor]]:
    """Each with the image it is asked about, on the CPU."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn, fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    build = fasterrcnn_mobilenet_v3_large_320_fpn if small else fasterrcnn_resnet50_fpn
    few = {"min_size": 96, "max_size": 128, "rpn_post_nms_top_n_test": 20} if small else {}
    model = build(weights=None, weights_backbone=None, **few).eval()
    image = photo(*((96, 128) if small else (800, 1066)))
    spread_like_trained(model, image)
    found: dict[str, tuple[Any, Tensor]] = {build.__name__: (model, image)}
    try:
        from ultralytics.nn.tasks import DetectionModel
    except ImportError:
        return found
    torch.manual_seed(0)
    found["yolov8n"] = DetectionModel("yolov8n.yaml", verbose=False).eval(), photo(*((64, 64) if small else (640, 640)))
    return found


def trained() -> dict[str, tuple[Any, Tensor]]:
    """The bundled Faster R-CNN and a scene: unlike random weights', its scores depend on what is hidden."""
    return {"scenes-frcnn": (load_frcnn(), image_tensor(generate(3).image))}


def wrapped(model: Any, image: Tensor) -> Any:
    """The detector, a YOLO at the image's own size."""
    own_size: dict[str, Any] = {} if hasattr(model, "roi_heads") else {"input_size": tuple(image.shape[1:])}
    return detxai.wrap(model, **own_size)


def boxes(detector: Any, image: Tensor, n: int) -> detxai.Detections:
    """The n likeliest candidates: with random weights no detection would be worth asking about."""
    with torch.no_grad():
        found = detector.candidates(image)
    column = found.class_scores[0].amax(0).argmax()
    place = found.class_scores[0, :, column].topk(n).indices
    own = found.boxes[0, place, column if found.boxes.shape[2] > 1 else 0]
    label = int(found.labels[column])
    return detxai.Detections(own, found.class_scores[0, place, column].float().clamp(max=1), [label] * n).to("cpu")


def exactness(model: Any, image: Tensor, device: torch.device) -> dict[str, float]:
    """Largest differences between this device and the CPU."""
    here, there = RiseMasks((64, 80), (8, 10)), torch.arange(100)
    differences = {"masks": float((here(there) - here(there.to(device)).cpu()).abs().max())}
    method = detxai.DRISE(n_masks=16, grid=8, p=0.9, progress=False)  # with random weights little survives p = 0.5
    asked = boxes(wrapped(model, image), image, 3)
    samples = []
    for one in (model, copy.deepcopy(model).to(device)):
        samples.append(method.sample(wrapped(one, image), image, asked))
    differences["scores"] = float((samples[0].scores - samples[1].scores.cpu()).abs().max())
    maps = [method.estimate(sample).values.cpu() for sample in samples]
    peak = maps[0].abs().max().clamp(min=1e-12)  # random weights may answer 0 under every mask
    differences["map, of its peak"] = float((maps[0] - maps[1]).abs().max() / peak)
    return differences


def whole_map(detector: Any, image: Tensor, n_masks: int, **settings: Any) -> tuple[float, int]:
    """Seconds and peak bytes of one call."""
    cuda = detector.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    method = detxai.DRISE(n_masks=n_masks, progress=False, **settings)
    method(detector, image, boxes(detector, image, 5))  # its maps come to the host, so it has ended
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() if cuda else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="small images and few masks: seconds on a CPU")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    many, few, most = (16, 16, 32) if given.small else (500, 500, 20_000)

    record: dict[str, Any] = {"device": str(device), "torch": torch.__version__}
    if device.type == "cuda":
        record["name"] = torch.cuda.get_device_name(device)
    for name, (model, image) in trained().items():  # a CPU has to make the same map
        found = record.setdefault("exactness", {})[name] = exactness(model.double(), image, device)
        print(name, found, flush=True)
    for name, (model, image) in detectors(given.small).items():
        entry: dict[str, Any] = {}
        detector = wrapped(model.to(device), image)
        rates = bench_d_rise(
            detector,
            image,
            boxes(detector, image, 20),
            n_masks=16 if given.small else 256,
            agreement_masks=0,
        )
        entry["rates"] = [asdict(rate) for rate in rates]
        print(as_rate_table(rates), flush=True)
        entry["seconds"] = {}
        variants: tuple[dict[str, Any], ...] = ({}, {"precision": "bf16"}, {"channels_last": True})
        for settings in variants:
            label = ", ".join(f"{key}={value}" for key, value in settings.items()) or "float32"
            entry["seconds"][label], _ = whole_map(detector, image, many, **settings)
            print(f"{many} masks, {label}: {entry['seconds'][label]:.2f} s", flush=True)
        if name.startswith("yolo") or given.small:
            entry["peak_bytes"] = {n: whole_map(detector, image, n, batch_size=64)[1] for n in (few, most)}
            print(f"peak memory: {entry['peak_bytes']}", flush=True)
        record[name] = entry
    if given.json is not None:
        given.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
