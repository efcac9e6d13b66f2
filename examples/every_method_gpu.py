"""Does every method give the same map on this GPU as on the CPU, and how much sooner? Under three minutes.

    python examples/every_method_gpu.py [--device cuda] [--detectors A,B] [--methods A,B] [--json FILE]

One detection of a scene by each bundled detector whose package is installed (Faster R-CNN, RT-DETR, YOLO), in float32
with TF32 off. For each method: the largest difference over the peak, the correlation of the two maps, and both times. A
method that refuses a detector must refuse it on both devices. It ends with an error where a correlation is below 0.999.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import detxai
from detxai.methods import methods_without_file
from detxai.scenes import generate

CHEAP: dict[str, dict[str, Any]] = {  # fewer passes than by default: a CPU has to make the same maps
    "d_rise": {"n_masks": 256, "most_masks": 256},
    "pixel_evidence": {"tolerance": 0.001, "ignore_below": 0.0},
    "region_shapley": {"max_passes": 128},
    "integrated_gradients": {"steps": 16},
}
LEAST_CORRELATION = 0.999
DRAW_ON_THE_DEVICE = ("smooth_grad", "gradient_shap")  # Captum's noise comes from the device's own generator


def answer(name: str, detector: Any, image: Any, asked: detxai.Detections) -> tuple[Any, float]:
    """The map (H, W), or the sentence of its refusal; and its seconds, on a GPU of the second call."""
    settings = CHEAP.get(name, {})
    try:
        for _ in range(1 if detector.device.type == "cpu" else 2):  # the first warms up: kernels, allocator
            start = time.perf_counter()
            (explanation,) = detxai.explain(detector, image, name, asked, **settings)
            seconds = time.perf_counter() - start  # maps come to the host, so it has ended
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}", 0.0
    return explanation.values, seconds


def compared(name: str, here: Any, there: Any, image: Any) -> dict[str, Any]:
    asked = here.detect(image, 0.3)[:1]
    (on_cpu, cpu_seconds), (on_device, device_seconds) = (answer(name, one, image, asked) for one in (here, there))
    if isinstance(on_cpu, str) or isinstance(on_device, str):
        same = isinstance(on_cpu, str) and isinstance(on_device, str)
        shown = on_device if isinstance(on_device, str) else on_cpu
        return {"refused": shown.partition("\n")[0][:160], "ok": same}
    peak = max(float(np.abs(on_cpu).max()), 1e-12)
    pair = np.stack([on_cpu.ravel(), on_device.ravel()])
    correlation = float(np.corrcoef(pair)[0, 1]) if pair.std(1).min() > 0 else float(np.array_equal(*pair))
    return {
        "difference": float(np.abs(on_cpu - on_device).max()) / peak,
        "correlation": correlation,
        "cpu_seconds": cpu_seconds,
        "seconds": device_seconds,
        "ok": correlation >= LEAST_CORRELATION or name in DRAW_ON_THE_DEVICE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--detectors", default="scenes-frcnn,scenes-rtdetr,scenes-yolo", help="default: all")
    parser.add_argument("--methods", default=",".join(methods_without_file()), help="default: all")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    record: dict[str, Any] = {"device": str(device), "torch": torch.__version__, "methods": {}}
    image, wrong = generate(3).image, []
    for detector in given.detectors.split(","):
        try:
            here, there = detxai.wrap(detector), detxai.wrap(detector)
        except ImportError as error:
            print(f"{detector} left out: {error}")
            continue
        there.model.to(device)
        for name in given.methods.split(","):
            found = compared(name, here, there, image)
            record["methods"][f"{detector} {name}"] = found
            if not found["ok"]:
                wrong.append(f"{detector} {name}")
            if "refused" in found:
                print(f"{detector:<14}{name:<24}refused: {found['refused']}", flush=True)
                continue
            print(
                f"{detector:<14}{name:<24}apart by {found['difference']:.1e} of the peak, correlation "
                f"{found['correlation']:.6f}, {found['cpu_seconds']:.2f} s on the CPU, {found['seconds']:.2f} s here",
                flush=True,
            )
    if given.json is not None:
        given.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if wrong:
        raise SystemExit(f"not the same as on the CPU: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
