"""Whatever stops an evaluation, the same command goes on: no figure lost, none doubled, none of another image."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from forking import exit_code, forked, needs_fork
from small_disks import remount

from detxai.cli import main


def arguments(out: Path) -> list[str]:
    given = ["evaluate", "--model", "scenes-frcnn", "--scenes", "local", "--n-scenes", "3", "--out", str(out)]
    return [*given, "--methods", "random,box,eigen_cam", "--measures", "energy,sparseness", "--no-progress"]


def figures(out: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    return [{name: str(value) for name, value in row.items() if name != "seconds"} for row in table]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(arguments(out)) == 0
    return out


def stopped_at_random_moments(number: signal.Signals, n: int, whole: Path, folder: Path) -> int:
    """How many of ``n`` runs the signal stopped before their end."""
    stopped = 0
    start = time.monotonic()
    assert exit_code(forked(arguments(folder / "timed"))) == 0
    seconds, chance = time.monotonic() - start, random.Random(number)
    for attempt in range(n):
        out = folder / str(attempt)
        child = forked(arguments(out))
        time.sleep(chance.uniform(0, seconds))
        os.kill(child, number)
        code = exit_code(child)
        assert code in (0, 130 if number == signal.SIGINT else -number)
        stopped += code != 0
        assert main(arguments(out)) == 0
        assert figures(out) == figures(whole)
    return stopped


@needs_fork
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_stopped_at_random_moments_it_ends_the_same(number: signal.Signals, whole: Path, tmp_path: Path) -> None:
    stopped_at_random_moments(number, 2, whole, tmp_path)


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_twenty_random_moments(number: signal.Signals, whole: Path, tmp_path: Path) -> None:
    assert stopped_at_random_moments(number, 20, whole, tmp_path) > 10


@needs_fork
def test_two_at_the_same_instant(whole: Path, tmp_path: Path) -> None:
    children = [forked(arguments(tmp_path / "out")) for _ in range(2)]
    assert [exit_code(child) for child in children] == [0, 0]
    assert figures(tmp_path / "out") == figures(whole)
    assert not list((tmp_path / "out").glob("**/.*.partial*"))


def test_a_full_disk_is_no_failure_of_an_image(
    small_disk: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, full = small_disk / "out", 0
    for size in (8, 40, 64, 88, 128, 4096):
        remount(small_disk, f"size={size}k")
        code = main(arguments(out))
        error = capsys.readouterr().err
        assert not list(out.glob("**/.*.partial*"))
        if code == 0:
            break
        full += 1
        assert code == (1 if (out / "request.json").is_file() else 2)
        assert "cannot be written: No space left on device" in error
        assert "Traceback" not in error
    assert full > 2
    assert figures(out) == figures(whole)
    assert (out / "failures.json").read_text() == "[]\n"


def test_a_disk_that_is_read_only(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remount(small_disk, "ro")
    assert main(arguments(small_disk / "out")) == 2
    assert "cannot be written: Read-only file system" in capsys.readouterr().err
