"""The tests on other processors, threads and releases: ``nox`` for all tests, ``nox -- tests/methods`` for some.

Each line of the table that it ends with is one combination; BENCHMARKS.md has the last one.
"""

from __future__ import annotations

import shutil
import time

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["newest", "oldest"]

OFFLINE = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
PROCESSORS = {  # what to name it -> environment variables
    "one thread": {},
    "two threads": {"DETXAI_TEST_THREADS": "2"},
    "ATEN_CPU_CAPABILITY=default": {"ATEN_CPU_CAPABILITY": "default"},
    "ATEN_CPU_CAPABILITY=avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "ONEDNN_MAX_CPU_ISA=AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
}
VERSIONS = """import torch, torchvision, ultralytics
print(torch.__version__, torchvision.__version__, ultralytics.__version__)"""


@nox.session
def newest(session: nox.Session) -> None:
    """The newest torch, torchvision and ultralytics, on every kind of processor."""
    session.install("--upgrade", "--upgrade-strategy", "eager", "-e", ".[dev]")
    run_tests(session, PROCESSORS)


@nox.session(python="3.10" if shutil.which("python3.10") else None)
def oldest(session: nox.Session) -> None:
    """The oldest torch and torchvision that pyproject.toml allows."""
    session.install("torch==2.6.0", "torchvision==0.21.0", "-e", ".[dev]")
    run_tests(session, {"one thread": {}})


def run_tests(session: nox.Session, processors: dict[str, dict[str, str]]) -> None:
    """Run the tests on each; a combination that fails does not keep the next from running."""
    versions = str(session.run("python", "-c", VERSIONS, silent=True)).split()
    failed, rows = [], []
    for name, variables in processors.items():
        start = time.monotonic()
        processes = () if "DETXAI_TEST_THREADS" in variables else ("-n", "2", "--dist", "loadfile")
        try:
            session.run("python", "-m", "pytest", "-q", *processes, *session.posargs, env={**OFFLINE, **variables})
        except nox.command.CommandFailed:
            failed.append(name)
        minutes = (time.monotonic() - start) / 60
        rows.append(f"| {' / '.join(versions)} | {name} | {'failed' if name in failed else 'passed'} | {minutes:.0f} |")
    print("\n| torch / torchvision / ultralytics | on | | minutes |\n|---|---|---|---|", *rows, sep="\n")
    if failed:
        session.error(f"failed: {', '.join(failed)}")
