"""The scripts of ``examples/``, run as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(example: str, *arguments: object) -> str:
    """What it prints; offline, and on one thread as the tests are."""
    command = [sys.executable, str(EXAMPLES / example), *map(str, arguments)]
    offline = {**os.environ, "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=offline, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
