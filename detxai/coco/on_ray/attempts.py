"""How often each image was begun and not finished: an image that kills every worker must not do so for ever."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

MAX_DEATHS = 3  # of workers at one image, after which it is a failure


class WorkerKilledError(RuntimeError):
    """An image at which worker processes died."""

    def __init__(self, deaths: int) -> None:
        super().__init__(f"{deaths} worker processes died while they had this image: out of memory, or a crash")


class Attempts(Protocol):
    """Counts attempts; kept where the death of a worker does not reach it."""

    def begin(self, what: str) -> int:
        """How often ``what`` was begun before and never ended."""
        ...

    def end(self, what: str) -> None:
        """What was begun came to its end, well or not."""
        ...


def attempt_log() -> Attempts:
    """The counts themselves.

    The class stands in here so that Ray sends its code: by its name, the process that keeps the counts would import
    detxai, and torch with it.
    """

    class AttemptLog:
        def __init__(self) -> None:
            self._open: dict[str, int] = {}

        def begin(self, what: str) -> int:
            before = self._open.get(what, 0)
            self._open[what] = before + 1
            return before

        def end(self, what: str) -> None:
            self._open.pop(what, None)

    return AttemptLog()


class RemoteAttempts:
    """An attempt log that lives in a process of its own; can be sent to every worker."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def begin(self, what: str) -> int:
        import ray

        return int(ray.get(self._log.begin.remote(what)))

    def end(self, what: str) -> None:
        self._log.end.remote(what)


def start_attempts(ray: ModuleType) -> RemoteAttempts:
    """An attempt log in a process of its own, which takes no processor."""
    return RemoteAttempts(ray.remote(num_cpus=0, max_restarts=-1)(type(attempt_log())).remote())
