"""Ray started on this machine for one run, or the cluster that it joins."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from detxai.coco.options import RayOptions

log = logging.getLogger(__name__)
OBJECT_STORE_BYTES = 512 * 2**20  # of a Ray started here: images between reading and explaining; more would not help
CPUS_OF_WORKER, CPUS_OF_READER = 0.75, 0.25  # of one processor: workers on all of them still leave room for readers
STARTS = 3  # tries: Ray gives up where its own processes are not up in half a minute, as on a busy machine
PIP_LINE = 'engine ray needs Ray: pip install "detxai[ray]"'
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: this machine alone, and every port on 127.0.0.1
    "RAY_worker_niceness": "0",  # Ray's 15 would let whatever else the machine does take the workers' processors
    "RAY_worker_register_timeout_seconds": "300",  # of a process that Ray starts; 60 are too few on a busy machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def expect_ray() -> None:
    """Raise ``ImportError``, with the pip line, where Ray is not installed; it is not imported yet."""
    if find_spec("ray") is None:
        raise ImportError(PIP_LINE)


def _import_ray() -> ModuleType:
    """The module ``ray``, with ``ray.data``.

    Raises:
        ImportError: it is not installed; the message has the pip line.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(PIP_LINE) from error
    module: ModuleType = ray
    return module


@contextmanager
def connected(options: RayOptions, workers: int | None) -> Iterator[ModuleType]:
    """Ray, ready for use; what was started is stopped at the end.

    Args:
        options: which cluster; without an address Ray is started on this machine, and listens on 127.0.0.1 alone. A Ray
            that this process has started or joined before is used as it is, and stays.
        workers: processes that hold the detector; a Ray that is started here gets as many processors, or all there are.

    Raises:
        ConnectionError: there is no cluster at the address, or Ray does not come up here.
    """
    with _environment({} if options.address else _of_local_ray()):
        ray = _import_ray()
        if ray.is_initialized():
            yield ray
            return
        _start(ray, options, workers)
        try:
            yield ray
        finally:
            ray.shutdown()


def _start(ray: ModuleType, options: RayOptions, workers: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if options.address is None:
        processors = max(workers or 1, os.cpu_count() or 1)
        size = {"num_cpus": processors, "object_store_memory": OBJECT_STORE_BYTES}
        _start_here(ray, {**size, **quiet})
        return
    try:
        ray.init(address=options.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionError(f"address: no Ray cluster answers at {options.address!r}: {error}") from error


def _start_here(ray: ModuleType, settings: dict[str, Any]) -> None:
    for number in range(1, STARTS + 1):
        try:
            ray.init(address="local", include_dashboard=False, **settings)
            return
        except Exception as error:  # a bare one, where its processes are late
            ray.shutdown()
            if number == STARTS:
                raise ConnectionError(
                    f"engine: Ray did not come up on this machine in {STARTS} tries ({error}); if the machine is busy "
                    "with other work, repeat the command later, or take --engine local"
                ) from error
            log.warning("Ray did not come up (%s); trying again", error)


@contextmanager
def _environment(entries: dict[str, str]) -> Iterator[None]:
    """Entries of the environment, for as long as Ray is used; those of the user stand."""
    saved = {name: os.environ.get(name) for name in entries}
    os.environ.update({name: value for name, value in entries.items() if name == "PYTHONPATH" or saved[name] is None})
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _of_local_ray() -> dict[str, str]:
    """What the processes of a Ray on this machine start with."""
    entries = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if os.path.exists(os.path.expanduser("~/.ray/auth_token")) or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return entries
    return {**entries, "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # else Ray writes one into the home folder


def worker_count(ray: ModuleType, options: RayOptions, workers: int | None) -> int:
    """How many workers hold the detector: as asked, else one for each share of a GPU, or for each processor.

    Raises:
        ValueError: the cluster has no room for one.
    """
    resources, gpus = ray.cluster_resources(), gpus_per_worker(ray, options)
    if gpus and resources.get("GPU", 0) < gpus:
        raise ValueError(f"gpus_per_worker: the cluster has {resources.get('GPU', 0):g} GPUs, got {gpus:g} a worker")
    if workers:
        return workers
    return max(1, int(resources["GPU"] / gpus if gpus else resources.get("CPU", 1)))


def gpus_per_worker(ray: ModuleType, options: RayOptions) -> float:
    """GPUs of each worker: as asked, else one where the cluster has any."""
    if options.gpus_per_worker is not None:
        return options.gpus_per_worker
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
