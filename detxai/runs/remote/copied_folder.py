"""A run folder in object storage: worked on in a folder of this machine, and copied while the run goes on.

A run needs to replace a file in one step, to create one only where there is none, and to read what it wrote; object
storage has neither the first nor the second. So the run works on this machine's disk, where every file is whole or not
there, and its files are copied in the order in which they were written: what lies at the address is at every moment
what a killed run might have left, and a run that begins there goes on with it.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detxai.runs.files import WriteError, is_temporary, make_folder
from detxai.runs.remote.address import Address

log = logging.getLogger(__name__)

SECONDS_BETWEEN_COPIES = 20.0  # a killed run loses what it finished in this time
WRITER = ".parts/writer.json"  # at the address alone: which process writes there
KEPT_LONGEST = ("explanations/", ".parts/failures-")  # removed last: a row stays until it is in another file
Version = tuple[int, int]  # of a file: time of its last change in nanoseconds, bytes


@contextmanager
def working_folder(out: Path | Address, request_name: str = "manifest.json") -> Iterator[Path]:
    """The folder that a run works in: ``out`` itself, or, for an address, a temporary copy of what lies there.

    The copy is brought back every ``SECONDS_BETWEEN_COPIES``, and at the end, also after an exception or Ctrl-C.

    Raises:
        ValueError: the address cannot be reached or written to, or holds something else than a run.
        WriteError: it could be at first and cannot be now, or another process has begun to write there. What is not
            there yet stays in the temporary folder, which the message names.
    """
    if isinstance(out, Path):
        yield out
        return
    folder = Path(tempfile.mkdtemp(prefix="detxai-run-"))
    copy = CopiedFolder(folder, out, request_name)
    try:
        copy.fetch()
        copy.claim()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    log.info("out: %s is worked on in %s, and copied every %.0f s", out, folder, SECONDS_BETWEEN_COPIES)
    try:
        with _copied_regularly(copy):
            yield folder
    finally:
        copy.send()  # where this fails, the folder stays
        shutil.rmtree(folder, ignore_errors=True)


class CopiedFolder:
    """A folder on this machine, and its copy at an address.

    Args:
        folder: on this machine.
        address: of the copy.
        request_name: the file that every run has from its beginning.
    """

    def __init__(self, folder: Path, address: Address, request_name: str) -> None:
        self._folder, self._address, self._request_name = folder, address, request_name
        self._system, self._path = address.file_system()
        self._copied: dict[str, Version] = {}
        self._token = secrets.token_hex(8)

    def fetch(self) -> None:
        """Copy the run at the address to this machine, which checks it as it checks any folder.

        Raises:
            ValueError: something else is there.
        """
        names = self._address.files_below()
        if self._request_name not in names and any(not name.startswith(".parts/") for name in names):
            raise ValueError(f"out: {self._address} holds files, but no run; give a new or an empty folder")
        for name in names:
            if name != WRITER:
                path = self._folder / name
                make_folder(path.parent)
                path.write_bytes((self._address / name).read_bytes())
                self._copied[name] = _version(path)

    def claim(self) -> None:
        """Say at the address that this process writes there; one that did so before stops at its next copy.

        Raises:
            ValueError: it cannot be written to.
        """
        try:
            self._put(WRITER, json.dumps({"writer": self._token}).encode())
        except WriteError as error:
            raise ValueError(f"out: {error}") from error

    def send(self) -> None:
        """Copy what is new or changed, oldest first, and remove what is gone.

        Raises:
            WriteError: the address cannot be written to, or another process has begun to.
        """
        now = self._versions()
        new = sorted((version[0], name) for name, version in now.items() if self._copied.get(name) != version)
        gone = [name for name in self._copied if name not in now]
        if not new and not gone:
            return
        self._expect_own()
        self._remove([name for name in gone if not name.startswith(KEPT_LONGEST)])
        for _, name in new:
            try:
                content = (self._folder / name).read_bytes()
            except FileNotFoundError:  # removed since: the next copy knows
                continue
            self._put(name, content)
            self._copied[name] = now[name]
        self._remove([name for name in gone if name.startswith(KEPT_LONGEST)])

    def _versions(self) -> dict[str, Version]:
        """Name -> version of every whole file on this machine."""
        found: dict[str, Version] = {}
        for path in self._folder.rglob("*"):
            names = path.relative_to(self._folder)
            if any(is_temporary(Path(part)) for part in names.parts) or path.is_dir():
                continue
            try:
                found[names.as_posix()] = _version(path)
            except FileNotFoundError:
                continue
        return found

    def _expect_own(self) -> None:
        try:
            writer = json.loads((self._address / WRITER).read_bytes())["writer"]
        except FileNotFoundError:
            writer = None
        except Exception as error:
            raise self._not_written(WRITER, f"{type(error).__name__}: {error}") from error
        if writer != self._token:
            raise self._not_written(WRITER, "another process has begun to write there; start one of them again")

    def _put(self, name: str, content: bytes) -> None:
        try:
            self._system.pipe_file(f"{self._path}/{name}", content)
        except Exception as error:  # each file system raises what it likes
            raise self._not_written(name, f"{type(error).__name__}: {error}") from error

    def _remove(self, names: list[str]) -> None:
        for name in names:
            try:
                self._system.rm_file(f"{self._path}/{name}")
            except FileNotFoundError:
                pass
            except Exception as error:
                raise self._not_written(name, f"{type(error).__name__}: {error}") from error
            del self._copied[name]

    def _not_written(self, name: str, why: str) -> WriteError:
        kept = f"; what is finished is in {self._folder}" if self._copied or any(self._folder.iterdir()) else ""
        return WriteError(f"{self._address}/{name}", OSError(why + kept))


@contextmanager
def _copied_regularly(copy: CopiedFolder) -> Iterator[None]:
    """While inside, a thread sends what is new; what goes wrong then is tried again at the next time."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(SECONDS_BETWEEN_COPIES):
            try:
                copy.send()
            except Exception as error:
                log.warning("not copied, to be tried again in %.0f s: %s", SECONDS_BETWEEN_COPIES, error)

    thread = threading.Thread(target=send, name="detxai-copying", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _version(path: Path) -> Version:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size
