"""``detxai coco status``: how far a run is."""

from __future__ import annotations

import argparse
import json

from detxai.coco.upkeep.status import RunStatus, status
from detxai.evaluate.results.time_left import in_words
from detxai.runs.tables import import_pyarrow

IDLE = 600  # seconds without anything finished, from which a run may not be running


def run(given: argparse.Namespace) -> int:
    """Print how far a run is; the exit code."""
    import_pyarrow()
    found = status(given.out, given.shards or 0)
    print(json.dumps(found.as_json(), indent=2) if given.json else described(found))
    return 0


def described(found: RunStatus) -> str:
    """How far a run is, in lines."""
    lines = [f"stage     {found.stage}"]
    if found.n_detected is not None and found.stage == "detecting":
        lines.append(f"images    about {found.n_detected} have their predictions")
    if found.n_boxes is not None:
        lines.append(
            f"boxes     {found.n_explained} of {found.n_boxes} done, in {found.n_parts_done} of {found.n_parts} files"
        )
    lines.append(f"failures  {found.n_failures}")
    if found.stage == "explaining" and found.seconds_left is not None and found.boxes_per_second is not None:
        lines.append(f"left      about {in_words(found.seconds_left)}, at {found.boxes_per_second:.3g} boxes a second")
    if found.stage not in ("finished", "report") and found.idle_seconds > IDLE:
        lines.append(
            f"nothing was finished for {in_words(found.idle_seconds)}: if it is not running, repeat its command"
        )
    if found.stage == "report":
        lines.append("every part is there; repeat its command for the report")
    lines += [f"shard {n + 1}/{len(found.shards)}: {done} of {of} files" for n, (done, of) in enumerate(found.shards)]
    return "\n".join(lines)
