"""Is `detxai coco` as small after 1,000 images as after 250, and how much faster are two workers than one?

    OMP_NUM_THREADS=1 python examples/coco_memory.py [--n-images 1000] [--ways local,ray-1,ray-2]

Writes scenes (small pictures), and runs the command on them, each way in processes of its own: `local`, or `ray-N` with
N workers. Every half second the memory of the command and of all it started is read: the proportional set size, which
counts what processes share once. Printed are its largest values in each quarter of the time between the first
predictions and the end, in MiB, for the command alone and for all processes together, and the seconds that each way
took, with the start of Ray and its workers and without (from the first predictions on). Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import detxai.coco
from detxai.scenes import export_coco
from detxai.scenes.world import DEFAULT_SIZE

BETWEEN = 0.5  # seconds from one reading to the next


@dataclass
class Watched:
    """What was seen of a run.

    Attributes:
        seconds: of the whole command; ``working``: from the first predictions to the end.
        boxes: that were explained.
        readings: time since the first predictions, MiB of the command, MiB of it and all it started.
    """

    seconds: float = 0.0
    working: float = 0.0
    boxes: int = 0
    readings: list[tuple[float, float, float]] = field(default_factory=list)

    def quarters(self, column: int) -> list[float]:
        """The largest MiB in each quarter of the time; ``column`` 1: of the command, 2: of all processes."""
        found = [0.0] * 4
        for reading in self.readings:
            quarter = min(3, int(4 * reading[0] / self.working))
            found[quarter] = max(found[quarter], reading[column])
        return found


def descendants(root: int) -> list[int]:
    """The processes that ``root`` has started, and they in turn."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [root]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def mebibytes(process: int) -> float:
    """The proportional set size of a process; 0 where it has ended."""
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def watched(command: Sequence[str], out: Path) -> Watched:
    """Run a command, and read its memory until it ends."""
    found, begun, first = Watched(), time.monotonic(), None
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if first is None and any(out.glob(".parts/detected-*")):
            first = time.monotonic()
        if first is not None:
            own = mebibytes(process.pid)
            everything = own + sum(mebibytes(one) for one in descendants(process.pid))
            found.readings.append((time.monotonic() - first, own, everything))
        time.sleep(BETWEEN)
    if process.returncode or first is None:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    found.seconds, found.working = time.monotonic() - begun, time.monotonic() - first
    found.boxes = len(detxai.coco.load(out))
    return found


def command_of(way: str, given: argparse.Namespace, annotations: Path, out: Path) -> list[str]:
    words = ["coco", "--model", given.model, "--method", given.method, "--map-stride", "4", "--no-report"]
    words += ["--images", str(annotations.parent), "--annotations", str(annotations), "--out", str(out)]
    words += ["--no-progress"]
    if way != "local":
        words += ["--engine", "ray", "--workers", way.removeprefix("ray-")]
    return [sys.executable, "-m", "detxai", *words]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=DEFAULT_SIZE, help="of a picture, in pixels")
    parser.add_argument("--model", default="scenes-yolo")
    parser.add_argument("--method", default="layer_cam")
    parser.add_argument("--ways", default="local,ray-1,ray-2", type=lambda text: text.split(","))
    parser.add_argument("--json", type=Path, help="write what was measured there too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        annotations = export_coco(Path(folder) / "data", given.n_images, size=given.size)
        outs = {way: Path(folder) / way for way in given.ways}
        seen = {way: watched(command_of(way, given, annotations, out), out) for way, out in outs.items()}
    print(f"{given.n_images} images of {given.size} px, {given.model}, {given.method}; {os.cpu_count()} processors")
    print(f"{'way':<8}{'seconds':>9}{'working':>9}{'boxes':>7}  MiB of the command, in quarters   MiB of all processes")
    for way, one in seen.items():
        own, everything = ("".join(f"{value:8.0f}" for value in one.quarters(column)) for column in (1, 2))
        print(f"{way:<8}{one.seconds:>9.0f}{one.working:>9.0f}{one.boxes:>7}{own}  {everything}")
    if given.json is not None:
        measured = {
            way: {
                "seconds": one.seconds,
                "working": one.working,
                "boxes": one.boxes,
                "command": one.quarters(1),
                "all": one.quarters(2),
            }
            for way, one in seen.items()
        }
        given.json.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
