"""A run that a page starts goes on without it, and is found again from its folder."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from detxai.runs import background
from detxai.runs.background import BackgroundRun
from detxai.runs.folder import RunFolder


def wait(run: BackgroundRun) -> None:
    deadline = time.monotonic() + 60
    while run.is_alive:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_is_found_again_and_its_folder_is_free_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    started = BackgroundRun.start(folder, ["methods", "--help"])
    with pytest.raises(ValueError, match="going on"):
        BackgroundRun.start(folder, ["methods"])
    monkeypatch.setattr(background, "_CHILDREN", dict(background._CHILDREN))
    found = BackgroundRun.read(folder)
    assert found == started
    wait(found)
    assert "List the explanation methods" in found.log_tail()
    RunFolder(folder).open({"request": 1})  # the files of the background are no other run's


def test_a_number_that_another_process_took_is_not_this_run(tmp_path: Path) -> None:
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("only /proc tells what a process runs")
    state = {"pid": 1, "command": ["detxai", "coco", "--out", "x"], "started": 0.0}
    (tmp_path / background.STATE).write_text(json.dumps(state))
    found = BackgroundRun.read(tmp_path)
    assert found is not None
    assert not found.is_alive
    found.stop()  # nothing happens to the other


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": "x", "command": [], "started": 0}', '{"pid": 1}'])
def test_a_damaged_state_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / background.STATE).write_text(text)
    assert BackgroundRun.read(tmp_path) is None
    assert BackgroundRun.read(tmp_path / "nowhere") is None
