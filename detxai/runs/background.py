"""A run that goes on by itself: a process of its own, whose number and log stand in the folder of the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detxai.runs.files import make_folder, write_json

STATE, LOG = "background.json", "background.log"
LONGEST_TAIL = 4000  # bytes of the log that are read back
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}  # started by this process: they must be waited for


@dataclass(frozen=True)
class BackgroundRun:
    """A run in the background, found again from its folder alone.

    Attributes:
        folder: of the run.
        pid: the number of its process.
        command: its words.
        started: seconds since 1970.
    """

    folder: Path
    pid: int
    command: Sequence[str]
    started: float

    @classmethod
    def start(cls, folder: Path, command: Sequence[str]) -> BackgroundRun:
        """Start ``detxai COMMAND...`` in a process that outlives this one; its output goes to ``background.log``.

        Args:
            folder: of the run; it is made where it is not there.
            command: the words after ``detxai``.

        Raises:
            ValueError: a run is going on in that folder.
            WriteError: nothing can be written there.
        """
        earlier = cls.read(folder)
        if earlier is not None and earlier.is_alive:
            raise ValueError(f"out: a run is going on in {folder}")
        make_folder(folder)
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "detxai", *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        _CHILDREN[process.pid] = process
        run = cls(folder, process.pid, ["detxai", *command], time.time())
        write_json(folder / STATE, {"pid": run.pid, "command": list(run.command), "started": run.started})
        return run

    @classmethod
    def read(cls, folder: Path) -> BackgroundRun | None:
        """The run that was last started in a folder; None where none was."""
        try:
            saved: Any = json.loads((folder / STATE).read_text(encoding="utf-8"))
            return cls(folder, int(saved["pid"]), [str(word) for word in saved["command"]], float(saved["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def is_alive(self) -> bool:
        """Whether its process is there. One that took its number later is told by its command, where that can be."""
        child = _CHILDREN.get(self.pid)
        if child is not None:
            return child.poll() is None
        try:
            os.kill(self.pid, 0)
        except (OSError, OverflowError):
            return False
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return True  # a system without /proc
        return all(word.encode() in words for word in self.command[1:])

    def stop(self) -> None:
        """As Ctrl-C does: what is finished is kept, and the same command goes on from there."""
        if self.is_alive:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGINT)

    def log_tail(self) -> str:
        """The end of what it printed."""
        try:
            with (self.folder / LOG).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LONGEST_TAIL))
                return log.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
