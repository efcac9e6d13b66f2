"""The tests on other processors, threads and releases, and each extra alone in a clean environment.

``nox`` runs all tests, ``nox -- tests/methods`` some. ``nox -s extras`` proves each extra sufficient, and
``nox -s "extras(yolo)"`` one. ``nox -s pythons`` runs the tests on every supported Python that is installed, ``nox -s
packages`` builds what is published, and ``nox -s everything`` does all of these.

Each line of the table that the tests end with is one combination; BENCHMARKS.md has the last one.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["newest", "oldest"]

OFFLINE = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
PROCESSORS = {  # what to name it -> environment variables
    "one thread": {},
    "two threads": {"DETXAI_TEST_THREADS": "2"},
    "as on AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "as without vector units": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
EXTRAS = (
    "none", "yolo", "tables", "lightning", "superpixels", "captum", "onnx", "openvino", "transformers", "rfdetr",
    "sahi", "ray", "app", "notebook", "concepts", "completion", "fiftyone", "datasets", "supervision", "tensorboard",
    "wandb",
)  # fmt: skip
VERSIONS = """import torch, torchvision, ultralytics
print(torch.__version__, torchvision.__version__, ultralytics.__version__)"""


@nox.session
def newest(session: nox.Session) -> None:
    """The newest torch, torchvision and ultralytics, on every kind of processor."""
    session.install("--upgrade", "--upgrade-strategy", "eager", "-e", ".[dev]")
    run_tests(session, PROCESSORS)


@nox.session(python="3.10" if shutil.which("python3.10") else None)
def oldest(session: nox.Session) -> None:
    """The oldest torch, torchvision and ultralytics that pyproject.toml allows."""
    session.install("torch==2.6.0", "torchvision==0.21.0", "ultralytics==8.4.180", "-e", ".[dev]")
    run_tests(session, {"one thread": {}})


@nox.session(python=[version for version in PYTHONS if shutil.which(f"python{version}")] or None)
def pythons(session: nox.Session) -> None:
    """Every supported Python that is installed here."""
    session.install("-e", ".[dev]")
    run_tests(session, {"one thread": {}})


@nox.session
@nox.parametrize("extra", EXTRAS, ids=EXTRAS)
def extras(session: nox.Session, extra: str) -> None:
    """``pip install "detxai[EXTRA]"`` alone, from the wheel, is sufficient for what the extra is for."""
    session.install("." if extra == "none" else f".[{extra}]")
    script = f"{session.invoked_from}/.ci/extras.py"
    with session.chdir(session.create_tmp()):  # away from the sources, so that the wheel is what is imported
        session.run("python", script, extra, env=OFFLINE)


@nox.session
def packages(session: nox.Session) -> None:
    """The sdist builds, a wheel builds from the sdist, and the wheel works where nothing else is installed."""
    session.install("build", "twine")
    folder = session.create_tmp()
    session.run("python", "-m", "build", "--outdir", folder, ".")  # the wheel is built from the sdist
    session.run("python", "-m", "twine", "check", "--strict", *map(str, Path(folder).glob("detxai-*")))
    session.install(*map(str, Path(folder).glob("*.whl")))
    with session.chdir(folder):
        session.run("detxai", "doctor")


@nox.session(venv_backend="none")
def everything(session: nox.Session) -> None:
    """All of the sessions above: hours."""
    each_python = [f"pythons-{version}" for version in PYTHONS if shutil.which(f"python{version}")]
    for name in ("packages", *(f"extras({extra})" for extra in EXTRAS), "oldest", *each_python, "newest"):
        session.notify(name)


def run_tests(session: nox.Session, processors: dict[str, dict[str, str]]) -> None:
    """Run the tests on each; a combination that fails does not keep the next from running."""
    printed = session.run("python", "-c", VERSIONS, silent=True)
    if printed is None:  # nox --install-only runs nothing: no row says that tests passed
        return
    versions = str(printed).split()
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
