"""``detxai coco merge``: folders of shards in one."""

from __future__ import annotations

import argparse
import json

from detxai.coco.upkeep.merge import merge
from detxai.commands.coco_status.run import described
from detxai.runs.tables import import_pyarrow


def run(given: argparse.Namespace) -> int:
    """Merge, and print how far the run is; the exit code."""
    import_pyarrow()
    found = merge(given.out, given.folders)
    print(json.dumps(found.as_json(), indent=2) if given.json else described(found))
    if not given.json and found.stage != "finished":
        print(f"go on with: detxai coco --config {given.out / 'run.yaml'} --out {given.out}")
    return 0
