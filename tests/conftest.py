"""What several tests need."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

LONG_FILES = (  # with two processes, one would wait for these if they were last
    "test_readme.py",
    "test_notebooks.py",
    "test_shortcut_alarm.py",
    "test_scene_training.py",
    "test_evaluate_stopping.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest run first."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos and trained weights: ``DETXAI_SHARED_DATA``, or ``../shared/data`` beside the repo."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DETXAI_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real photos and weights in {folder}; set DETXAI_SHARED_DATA")
    return folder


sys.path.insert(0, str(Path(__file__).parent))  # what several folders of tests build

from browsers import chromium  # noqa: E402, F401
from small_disks import small_disk  # noqa: E402, F401

# a shell starts what runs in its background with Ctrl-C ignored, and so would be whatever a test starts from here
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# small networks: several threads wait for each other longer than they work, ten times longer on a busy machine;
# DETXAI_TEST_THREADS is another number, or "machine": as many as torch takes itself
threads = os.environ.get("DETXAI_TEST_THREADS", "1")
if threads != "machine":
    torch.set_num_threads(int(threads))
