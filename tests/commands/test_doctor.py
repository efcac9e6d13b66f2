"""``detxai doctor`` and ``--version`` tell what is installed, and find what is broken."""

from __future__ import annotations

import ast
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import detxai.commands.doctor.packages as packages
import detxai.commands.doctor.self_test as self_test
from detxai.cli import main
from detxai.commands.doctor.run import examine
from detxai.scenes import generate


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return examine()


def test_a_working_installation_passes(found: dict[str, Any]) -> None:
    assert found["ok"]
    assert found["self_test"][0]["device"] == "cpu"
    versions = {package["name"]: package["installed"] for package in found["packages"]}
    assert versions["torch"] == importlib.metadata.version("torch")
    assert json.loads(json.dumps(found)) == found


def test_every_extra_is_described() -> None:
    provided = importlib.metadata.metadata("detxai").get_all("Provides-Extra") or []
    assert set(provided) - set(packages.COLLECTIONS) == set(packages.EXTRAS)
    nothing = {name for name, wanted in packages.by_extra().items() if not wanted}
    assert nothing <= {"app"}, "an extra installs nothing"  # app is for Python 3.11 and later


def test_all_and_dev_bring_every_extra_but_those_with_conflicts() -> None:
    requirements = [line for line in importlib.metadata.requires("detxai") or [] if line.startswith("detxai[")]
    assert len(requirements) == 2
    for line in requirements:
        named = set(line[len("detxai[") : line.index("]")].split(","))
        assert named - set(packages.COLLECTIONS) == set(packages.EXTRAS) - {"rfdetr", "fiftyone"}


def test_every_extra_has_a_script_that_proves_it_sufficient() -> None:
    root = Path(__file__).parents[2]
    constants = {
        target.id: node.value
        for node in ast.parse((root / "noxfile.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    sessions = set(ast.literal_eval(constants["EXTRAS"]))
    assert sessions == {"none", *packages.EXTRAS}
    script = ast.parse((root / ".ci" / "extras.py").read_text(encoding="utf-8"))
    assert sessions <= {node.name for node in script.body if isinstance(node, ast.FunctionDef)}


def without(monkeypatch: pytest.MonkeyPatch, missing: str, instead: str | None = None) -> None:
    """As if the package ``missing`` were not installed, or were there in the version ``instead``."""
    version = packages.version

    def looked_up(name: str) -> str:
        if name == missing and instead is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return instead if name == missing and instead is not None else version(name)

    monkeypatch.setattr(packages, "version", looked_up)


def test_a_missing_required_package_is_named_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "safetensors")
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert 'safetensors     missing: pip install "safetensors>=0.4"' in printed
    assert "not everything works: install the packages above" in printed


def test_an_old_package_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch", "2.5.1")
    (torch_found,) = [package for package in packages.required() if package.name == "torch"]
    assert (torch_found.state, torch_found.installed, torch_found.wanted) == ("too old", "2.5.1", ">=2.6")
    without(monkeypatch, "torch", "2.6.0+cpu")
    assert {package.state for package in packages.required() if package.name == "torch"} == {"ok"}


def test_the_headless_opencv_does_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_headless(name: str) -> str:
        if name != "opencv-python-headless":
            raise importlib.metadata.PackageNotFoundError(name)
        return "4.10.0"

    monkeypatch.setattr(packages, "version", only_headless)
    assert packages.installed_version("opencv-python") == "4.10.0"


def test_a_missing_extra_says_what_it_is_for_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "captum")
    monkeypatch.setattr(self_test, "self_test", lambda device: self_test.SelfTest(device, True, 0.1))
    assert main(["doctor"]) == 0
    assert 'pip install "detxai[captum]"' in capsys.readouterr().out


def test_an_extra_that_is_too_old_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "captum", "0.6.0")
    monkeypatch.setattr(self_test, "self_test", lambda device: self_test.SelfTest(device, True, 0.1))
    assert main(["doctor"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  captum")]
    assert "captum 0.6.0 is not >=0.7 for Captum's methods" in row
    assert "missing" not in row


def test_a_map_beside_the_cause_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = generate(self_test.SEED, "local")
    flat = np.ones(scene.image.shape[:2])
    assert self_test.concentration(flat, scene) == pytest.approx(1)
    assert self_test.concentration(np.where(scene.evidence[0], 0.0, 1.0), scene) == 0
    monkeypatch.setattr(self_test, "concentration", lambda heatmap, scene: 1.0)
    assert not self_test.self_test("cpu").passed


def test_what_is_raised_fails_the_self_test_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("99 GiB")

    monkeypatch.setattr(self_test, "wrap", broken)
    failed = self_test.self_test("cpu")
    assert (failed.passed, failed.reason) == (False, "OutOfMemoryError: 99 GiB")


def test_version_names_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for name in ("detxai", "torch", "torchvision"):
        assert f"{name} {importlib.metadata.version(name)}" in printed.splitlines()
