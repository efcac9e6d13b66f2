"""A disk that is soon full: a file system in memory, of a size that a test chooses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of 32 KiB; :func:`remount` gives it another size."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(disk)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield disk
    # lazily: a thread of Arrow's may still be about to close the file that it has read
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def remount(disk: Path, options: str) -> None:
    """Change the disk: ``"size=64k"``, ``"ro"``, ``"rw"``."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)
