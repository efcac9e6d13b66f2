"""What does insertion + deletion cost beside the bare passes that it needs? On your own detector and image.

    python examples/insertion_deletion_cost.py --model yolov8n.pt --input-size 320 photo.jpg
    python examples/insertion_deletion_cost.py --model scenes-frcnn

In one process, by turns: the detector on every perturbed image, ready made, in batches (the bare passes), and the whole
measure. Both as processor seconds and by the clock, and their ratio, round by round. Memory is the most that the
process has held: after the bare passes, and how much more the measure took.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from detxai.adapters.detector import Detector
from detxai.adapters.loading import load_detector
from detxai.engine.batching import images_at_once
from detxai.engine.masking.canvas import Canvas
from detxai.images import load_image, to_uint8
from detxai.metrics import Case, InsertionDeletion
from detxai.metrics.insertion_deletion import pixel_ranks, pixels_at
from detxai.scenes import generate

Seconds = tuple[float, float]


def timed(work: Callable[[], object]) -> Seconds:
    """Processor seconds and seconds by the clock."""
    before = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - before[0], time.perf_counter() - before[1]


def bare_passes(case: Case, measure: InsertionDeletion) -> Seconds:
    """The detector alone on the images that the measure asks it about; making them is not timed."""
    canvas = Canvas.with_fill(case.detector, case.image, measure.fill, measure.seed)
    ranks = pixel_ranks(canvas.from_image(case.maps), measure.seed)
    shown = pixels_at(measure.steps, ranks[0].numel())[1:-1]
    keep = [(ranks[t] < n) ^ gone for t in range(len(case)) for gone in (False, True) for n in shown.tolist()]
    size = measure.batch_size or images_at_once(canvas.clean.tensor)
    batches = [keep[start : start + size] for start in range(0, len(keep), size)]
    batches.append([torch.ones_like(keep[0]), torch.zeros_like(keep[0])])
    processor = clock = 0.0
    with case.detector.borrowed(), torch.no_grad():
        for batch in batches:
            inputs = canvas.inputs(torch.stack(batch))
            once = timed(lambda inputs=inputs: case.detector.candidates(inputs))  # type: ignore[misc]
            processor, clock = processor + once[0], clock + once[1]
    return processor, clock


def a_case(detector: Detector, image: Path | None, n_boxes: int, threshold: float) -> Case:
    photo = generate(500, "local").image if image is None else to_uint8(load_image(image))
    found = detector.detect(photo, threshold)[:n_boxes]
    dice = torch.Generator().manual_seed(0)  # any map will do: no pixel's rank is cheaper than another's
    return Case(detector, photo, found, torch.rand(len(found), *photo.shape[:2], generator=dice))


def megabytes() -> float:
    """The most that this process has held; 0 where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("image", nargs="?", type=Path, help="default: a scene")
    parser.add_argument("--model", required=True)
    parser.add_argument("--input-size", type=int, help="of a YOLO")
    parser.add_argument("--n-boxes", type=int, default=3)
    parser.add_argument("--score-threshold", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    options = {} if given.input_size is None else {"input_size": given.input_size}
    detector = load_detector(given.model, **options)
    case = a_case(detector, given.image, given.n_boxes, given.score_threshold)
    if not len(case):
        sys.exit(f"nothing is found above {given.score_threshold}")
    measure = InsertionDeletion(steps=given.steps, batch_size=given.batch_size)
    print(f"{len(case)} boxes, {given.steps} steps, {len(case) * 2 * (given.steps - 1) + 2} images")
    small = InsertionDeletion(steps=3, batch_size=given.batch_size)
    bare_passes(case, small), small(case)  # the first passes allocate
    ratios, held = [], 0.0
    for turn in range(given.rounds):
        bare = bare_passes(case, measure)
        held = held or megabytes()
        whole = timed(lambda: measure(case))
        ratios.append((whole[0] / bare[0], whole[1] / bare[1]))
        print(
            f"round {turn + 1}: bare passes {bare[0]:.2f} s of processor, {bare[1]:.2f} s by the clock; "
            f"the measure {whole[0]:.2f}, {whole[1]:.2f}; ratio {ratios[-1][0]:.3f}, {ratios[-1][1]:.3f}"
        )
    processor, clock = (statistics.median(column) for column in zip(*ratios))
    print(f"median ratio: {processor:.3f} of processor, {clock:.3f} by the clock")
    print(f"most memory: {held:.0f} MB after the bare passes, {megabytes() - held:.0f} MB more after the measure")


if __name__ == "__main__":
    main()
