"""How does `detxai coco` grow with its workers? The pieces of a run measured here, larger clusters simulated from them.

    python examples/coco_cost_curve.py --model MODEL --images DIR --annotations FILE [--pass-milliseconds 4]

Measured in one process (run it with OMP_NUM_THREADS=1): to read an image, to detect in it, the method, what is around
it, to pack a map, to write a row. Simulated: a reader and a worker for each GPU, one process that writes, as with
`--engine ray`; every image goes through a free reader, a free worker and the writer, in its turn, with as many boxes
as the sampled images have. What is busy the longest is the bottleneck. `--pass-milliseconds` puts another time in the
place of the measured one for each of the method's passes: that of a GPU, say, which this machine need not have.
Not simulated: the network between machines, storage that slows down with many readers, workers that die.
"""

from __future__ import annotations

import argparse
import heapq
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detxai.adapters.loading import load_detector
from detxai.coco.api import quiet_method
from detxai.coco.folder import CocoFolder
from detxai.coco.options import Options
from detxai.coco.request import CocoRequest
from detxai.coco.selection import Selection
from detxai.coco.upkeep.estimate import Estimate, Pieces, estimate
from detxai.data.categories import label_to_category
from detxai.data.coco_files import read_annotations


@dataclass(frozen=True)
class Outcome:
    """A simulated run: its seconds, and the share of them for which each kind of process was busy."""

    seconds: float
    readers: float
    workers: float
    writer: float

    @property
    def bottleneck(self) -> str:
        busy = {"workers": self.workers, "readers": self.readers, "the writer": self.writer}
        return max(busy, key=lambda name: busy[name])


def simulate(pieces: Pieces, boxes_of_images: Sequence[int], workers: int) -> Outcome:
    """Images one after the other through a free reader, a free worker and the writer.

    >>> pieces = Pieces(read=0.0, detect=1.0, method=2.0, around=0.0, pack=0.0, write=0.0, passes=1.0, bytes=1.0)
    >>> simulate(pieces, [1, 1, 1, 1], 1).seconds, simulate(pieces, [1, 1, 1, 1], 4).seconds
    (12.0, 3.0)
    """
    readers, free = [0.0] * workers, [0.0] * workers
    busy = {"readers": 0.0, "workers": 0.0, "writer": 0.0}
    written = 0.0
    for n_boxes in boxes_of_images:
        read = heapq.heappop(readers) + pieces.read
        heapq.heappush(readers, read)
        work = pieces.detect + n_boxes * (pieces.method + pieces.around + pieces.pack)
        done = max(read, heapq.heappop(free)) + work
        heapq.heappush(free, done)
        written = max(written, done) + n_boxes * pieces.write
        busy["readers"] += pieces.read
        busy["workers"] += work
        busy["writer"] += n_boxes * pieces.write
    total = max(written, *free)
    return Outcome(
        total, busy["readers"] / (total * workers), busy["workers"] / (total * workers), busy["writer"] / total
    )


def outside_share(pieces: Pieces, boxes_per_image: float) -> float:
    """The share of a run that is neither detecting nor the method: reading, what is around it, packing, writing."""
    outside = pieces.read + boxes_per_image * (pieces.around + pieces.pack + pieces.write)
    return outside / (outside + pieces.detect + boxes_per_image * pieces.method)


def measured(given: argparse.Namespace) -> Estimate:
    size = {} if given.input_size is None else {"input_size": given.input_size}
    detector = load_detector(given.model, **size)
    annotations = read_annotations(given.annotations)
    with tempfile.TemporaryDirectory() as out:
        return estimate(
            CocoRequest(
                detector, quiet_method(given.method, {}), given.images, annotations, None,
                label_to_category(detector, annotations), CocoFolder(Path(out) / "run"), Selection(), Options(),
            )
        )  # fmt: skip


def table(pieces: Pieces, boxes_per_image: float, workers: Sequence[int], n_images: int) -> str:
    rng = random.Random(0)
    boxes = [rng.randint(0, round(2 * boxes_per_image)) for _ in range(n_images)]
    lines = [f"{'workers':>8}{'images/hour':>14}{'of ideal':>10}  busiest (readers, workers, writer busy)"]
    one = simulate(pieces, boxes, 1)
    for n in workers:
        found = simulate(pieces, boxes, n)
        shares = f"{found.readers:.0%}, {found.workers:.0%}, {found.writer:.0%}"
        ideal = one.seconds / n / found.seconds
        lines.append(f"{n:>8}{3600 * n_images / found.seconds:>14,.0f}{ideal:>10.0%}  {found.bottleneck} ({shares})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--annotations", required=True, type=Path)
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--method", default="pixel_evidence")
    parser.add_argument("--pass-milliseconds", type=float, help="of the method's passes; default: as measured here")
    parser.add_argument("--workers", default="1,2,8,64,512", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--n-images", type=int, default=20_000, help="of the simulated data set")
    given = parser.parse_args()
    found = measured(given)
    pieces = found.pieces
    if pieces is None:
        parser.error("no sampled image has a box to explain")
    per_image = found.n_boxes / found.n_images
    print(f"{given.method}, {found.n_explained} boxes of {found.n_sampled} images; milliseconds")
    print(f"an image: read {pieces.read * 1e3:.1f}, detect {pieces.detect * 1e3:.1f}; {per_image:.1f} boxes")
    print(
        f"a box: method {pieces.method * 1e3:.1f} ({pieces.passes:.0f} passes), around it {pieces.around * 1e3:.1f}, "
        f"pack {pieces.pack * 1e3:.1f}, write {pieces.write * 1e3:.1f}"
    )
    print(f"outside detecting and the method: {outside_share(pieces, per_image):.2%}\n")
    if given.pass_milliseconds is not None:
        faster = given.pass_milliseconds / 1e3
        pieces = replace(pieces, method=pieces.passes * faster, detect=faster)
        print(f"with {given.pass_milliseconds:g} ms a pass: {outside_share(pieces, per_image):.2%} outside\n")
    print(table(pieces, per_image, given.workers, given.n_images))


if __name__ == "__main__":
    main()
