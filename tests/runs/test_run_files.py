"""Files that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from small_disks import remount

from detxai.runs.files import WriteError, is_temporary, remove_abandoned, replacing, temporary_path, write_new


def write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_no_two_processes_share_a_temporary_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers number their processes each for itself, and may share their host's name."""
    names = {temporary_path(tmp_path / "a.json") for _ in range(100)}
    assert len(names) == 100
    monkeypatch.setattr(os, "getpid", lambda: 7)
    assert f"-{7}-" in temporary_path(tmp_path / "a.json").name
    assert all(map(is_temporary, names))
    assert not is_temporary(tmp_path / "a.json")


def test_what_was_left_long_ago_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    old, new, mine = temporary_path(tmp_path / "a.png"), temporary_path(tmp_path / "a.png"), tmp_path / ".a.partial"
    for path in (old, new, mine):
        path.write_text("half")
    for path in (old, mine):
        os.utime(path, (0, 0))
    remove_abandoned(tmp_path)
    assert set(tmp_path.iterdir()) == {new, mine}


def test_of_many_at_the_same_instant_one_writes_the_new_file(tmp_path: Path) -> None:
    path, start, first = tmp_path / "a.json", threading.Barrier(8), []

    def begin(number: int) -> None:
        start.wait()
        if write_new(path, str(number)):
            first.append(number)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_text()] == [str(number) for number in first]
    assert os.listdir(tmp_path) == ["a.json"]


def test_without_hard_links_a_new_file_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*paths: object) -> None:
        raise OSError("no such thing on this file system")

    monkeypatch.setattr(os, "link", refused)
    assert write_new(tmp_path / "a.json", "first")
    assert not write_new(tmp_path / "a.json", "second")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]


def test_on_a_full_disk_the_old_file_stays_whole(small_disk: Path) -> None:
    path = small_disk / "a.txt"
    write(path, "old")
    with pytest.raises(WriteError, match=r"a\.txt cannot be written: No space left on device"):
        write(path, "new" * 100_000)
    assert path.read_text() == "old"
    assert os.listdir(small_disk) == ["a.txt"]


def test_on_a_read_only_disk_the_path_is_named(small_disk: Path) -> None:
    remount(small_disk, "ro")
    for attempt in (write, write_new):
        with pytest.raises(WriteError, match=r"a\.txt cannot be written: Read-only file system"):
            attempt(small_disk / "a.txt", "new")
