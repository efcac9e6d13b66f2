"""``detxai doctor``: what is installed, what is missing and what for, and whether it works."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from detxai.commands.doctor.packages import EXTRAS, Package, by_extra, installed_version, required
from detxai.commands.options import FAILED


def run(given: argparse.Namespace) -> int:
    """Print what was found; the exit code."""
    found = examine()
    print(json.dumps(found, indent=2) if given.json else "\n".join(_text(found)))
    return 0 if found["ok"] else FAILED


def examine() -> dict[str, Any]:
    """What is installed, what is missing, and how the self-test went."""
    packages = required()
    incomplete = [package for package in packages if package.state != "ok"]
    tests = [] if any(package.state == "missing" for package in incomplete) else _self_tests()
    return {
        "ok": not incomplete and bool(tests) and all(test["passed"] for test in tests),
        "detxai": installed_version("detxai"),
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "packages": [asdict(package) for package in packages],
        "extras": {
            name: {"for": EXTRAS[name], "packages": [asdict(package) for package in wanted]}
            for name, wanted in by_extra().items()
        },
        **_hardware(),
        "self_test": tests,
    }


def _self_tests() -> list[dict[str, Any]]:
    try:
        from detxai.commands.doctor.self_test import devices, self_test  # imports torch, which may be broken
    except Exception as error:
        reason = f"detxai cannot be imported: {type(error).__name__}: {error}"
        return [{"device": "cpu", "passed": False, "seconds": 0.0, "reason": reason}]
    return [asdict(self_test(device)) for device in devices()]


def _hardware() -> dict[str, Any]:
    """Devices and threads, as torch uses them."""
    try:
        import torch
    except Exception:  # the self-test says why
        return {"devices": [], "threads": None, "processors": os.cpu_count()}
    names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    names += ["Apple GPU (mps)"] if torch.backends.mps.is_available() else []
    return {"devices": names, "threads": torch.get_num_threads(), "processors": os.cpu_count()}


def _text(found: dict[str, Any]) -> Iterator[str]:
    yield f"detxai {found['detxai']}, Python {found['python']} ({found['executable']})"
    yield f"{found['system']}"
    yield f"devices: {', '.join(found['devices']) or 'the CPU alone'}"
    yield f"threads: {found['threads']} of {found['processors']} processors"
    yield "\nrequired packages:"
    for package in found["packages"]:
        yield f"  {_row(Package(**package))}"
    yield "\nextras:"
    for name, extra in found["extras"].items():
        packages = [Package(**package) for package in extra["packages"]]
        if not packages:
            yield f"  {name:<13} not for Python {found['python']}"
        elif all(package.state == "ok" for package in packages):
            versions = ", ".join(f"{package.name} {package.installed}" for package in packages)
            yield f"  {name:<13} ok       {versions}"
        else:
            yield f'  {name:<13} {_lacks(packages):<8} for {extra["for"]}: pip install "detxai[{name}]"'
    yield "\nself-test: a bundled detector finds and explains an object whose cause is known"
    for test in found["self_test"]:
        yield f"  {test['device']}: {'passed' if test['passed'] else 'FAILED'} in {test['seconds']:.1f} s"
        if test["reason"]:
            yield f"  {test['reason']}"
    yield "\neverything works" if found["ok"] else f"\nnot everything works: {_advice(found)}"


def _lacks(packages: list[Package]) -> str:
    """What keeps an extra from working: versions that are too old, where nothing is missing."""
    if any(package.state == "missing" for package in packages):
        return "missing"
    return ", ".join(f"{package.name} {_lack(package)}" for package in packages if package.state == "too old")


def _row(package: Package) -> str:
    if package.state == "ok":
        return f"{package.name:<15} {package.installed}"
    return f'{package.name:<15} {_lack(package)}: pip install "{package.name}{package.wanted}"'


def _lack(package: Package) -> str:
    return "missing" if package.installed is None else f"{package.installed} is not {package.wanted}"


def _advice(found: dict[str, Any]) -> str:
    if any(package["state"] != "ok" for package in found["packages"]):
        return "install the packages above, then run detxai doctor again"
    return "please report this output as an issue"
