"""Is Ablation-CAM on this GPU the same as on the CPU, and how fast is it? One command, under five minutes.

    python examples/gpu_check.py [--device cuda] [--json FILE]

Exactness first, in float64: in float32 the rounding of a deep network alone differs by 1e-4 from device to device. Then
speed on a Faster R-CNN ResNet-50 FPN at 800 pixels with seeded weights: all 1,280 channels for all its boxes, a tenth
of them, with a margin, with the backbone in bf16, the share of the time that the GPU is busy, and peak memory; TF32 is
off. Runs without ultralytics; a YOLO is checked too where it is installed.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn

import detxai
from detxai.adapters.detector import Detector
from detxai.adapters.torchvision.spread import spread_like_trained
from detxai.engine.ablation.tails import tail_of
from detxai.targets import ClassScoreTarget

TOLERANCE = 1e-9


def photo(height: int = 810, width: int = 1080) -> Tensor:
    """A seeded (3, height, width) image of smooth blobs."""
    coarse = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1)


def faster_rcnn(**settings: Any) -> FasterRCNN:
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **settings).eval()
    spread_like_trained(model, photo())
    return model


def detectors(small: bool) -> dict[str, Any]:
    """What to check, on the CPU."""
    found: dict[str, Any] = {
        "fasterrcnn": faster_rcnn(
            **({"min_size": 240, "max_size": 320, "rpn_post_nms_top_n_test": 300} if small else {})
        )
    }
    try:
        from ultralytics.nn.tasks import DetectionModel
    except ImportError:
        return found
    torch.manual_seed(0)
    for name in ("yolov8n", "yolo11n"):
        found[name] = DetectionModel(f"{name}.yaml", verbose=False).eval()
    return found


def some_scores(detector: Detector, image: Tensor, found: detxai.Detections, per_level: int) -> dict[str, Tensor]:
    features = detector.features(image)
    with detector.borrowed(), torch.no_grad():
        tail = tail_of(detector, features, ClassScoreTarget.of(found))
        return {
            name: tail.scores(name, channels, level.new_zeros(per_level)).double().cpu()
            for name, level in features.levels.items()
            for channels in [torch.linspace(0, level.shape[1] - 1, per_level, device=level.device).long()]
        }


def exactness(device: torch.device, per_level: int) -> dict[str, float]:
    """Largest difference of any score between the device and the CPU, in float64, for each detector."""
    worst, image = {}, photo(240, 320)
    for name, model in detectors(small=True).items():
        on_cpu = detxai.wrap(model.double())
        found = on_cpu.detect(image, 0)[:5]
        if len(found) == 0:  # a random YOLO finds nothing: ask about fixed boxes
            found = detxai.Detections([[20, 20, 120, 140], [150, 60, 300, 200]], [0.5, 0.5], [0, 1])
        expected = some_scores(on_cpu, image, found, per_level)
        on_device = detxai.wrap(copy.deepcopy(model).to(device))
        got = some_scores(on_device, image, found.to(device), per_level)
        worst[name] = max(float((expected[level] - got[level]).abs().max()) for level in expected)
    return worst


def speed(device: torch.device, *, small: bool) -> dict[str, Any]:
    """All 1,280 channels of a ResNet-50 Faster R-CNN at 800 pixels, every box of the image."""
    model = detectors(small)["fasterrcnn"].to(device)
    detector, image = detxai.wrap(model), photo(*((120, 160) if small else ()))
    found = detector.detect(image, 0.25)[: 2 if small else None]
    all_channels = 0.02 if small else 1.0
    methods = {
        "all channels": detxai.AblationCAM(all_channels, progress=False),
        "a margin of 0.5": detxai.AblationCAM(all_channels, margin=0.5, progress=False),
        "a tenth of the channels": detxai.AblationCAM(all_channels / 10, progress=False),
        "bf16 backbone, channels last": detxai.AblationCAM(
            all_channels, precision="bf16", channels_last=True, progress=False
        ),
    }
    if device.type == "cuda":
        for method in methods.values():
            method(detector, image, found)  # warm up: kernels, allocator
        torch.cuda.reset_peak_memory_stats(device)
    return {
        "seconds": {name: seconds(method, detector, image, found) for name, method in methods.items()},
        "n_boxes": len(found),
        "peak_mb": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
        "busy_share": busy_share(detector, image, found) if device.type == "cuda" else None,
    }


def seconds(method: detxai.AblationCAM, detector: Detector, image: Tensor, found: detxai.Detections) -> float:
    wait(detector.device)
    start = time.perf_counter()
    method(detector, image, found)
    wait(detector.device)
    return time.perf_counter() - start


def busy_share(detector: Detector, image: Tensor, found: detxai.Detections) -> float:
    """Share of the wall time in which a kernel runs, by the profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        wall = seconds(detxai.AblationCAM(progress=False), detector, image, found)
    return sum(event.self_device_time_total for event in recorded.key_averages()) / 1e6 / wall


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--skip-speed", action="store_true", help="exactness only")
    parser.add_argument("--small", action="store_true", help="speed at 240 pixels, 2 boxes, few channels: a rehearsal")
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    figures: dict[str, Any] = {"device": str(device), "torch": torch.__version__}
    figures["exactness"] = exactness(device, 2 if given.small else 8)
    if device.type == "cuda":
        figures["name"] = torch.cuda.get_device_name(device)
    for name, worst in figures["exactness"].items():
        verdict = "ok" if worst <= TOLERANCE else "TOO LARGE"
        print(f"{name:<12} largest score difference from the CPU {worst:.1e}  {verdict}")
    if not given.skip_speed:
        figures["speed"] = speed(device, small=given.small)
        print(figures["speed"])
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    if max(figures["exactness"].values()) > TOLERANCE:
        raise SystemExit(f"the device's scores differ from the CPU's by more than {TOLERANCE}")


if __name__ == "__main__":
    main()
