"""The scripts of ``detxai completion`` are what each shell reads; bash, where it is installed, completes with one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from detxai.cli import main
from detxai.commands.completion.arguments import SHELLS

pytest.importorskip("shtab")
CHECKS = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}


@pytest.fixture(params=SHELLS)
def shell_script(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[str, Path]:
    assert main(["completion", request.param]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    return request.param, script


def test_every_shell_gets_a_script_it_can_read(shell_script: tuple[str, Path]) -> None:
    shell, script = shell_script
    assert "--max-detections" in script.read_text() or shell == "tcsh"
    if shell in CHECKS and shutil.which(CHECKS[shell][0]):
        subprocess.run([*CHECKS[shell], str(script)], check=True)


def complete(script: Path, *words: str) -> set[str]:
    """What bash offers for the last of ``words``."""
    code = f"""
source {script}
COMP_WORDS=({" ".join(map(repr, words))}); COMP_CWORD={len(words) - 1}
$(complete -p detxai | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return {line.strip() for line in done.stdout.splitlines()}


@pytest.mark.skipif(shutil.which("bash") is None or sys.platform == "win32", reason="no bash")
def test_bash_completes_commands_options_and_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert complete(script, "detxai", "ev") == {"evaluate"}
    assert complete(script, "detxai", "coco", "--retr") == {"--retry-failed"}
    assert complete(script, "detxai", "explain", "--method", "layer") == {"layer_cam"}


def test_without_shtab_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)  # an import of it now fails
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == 'detxai: error: detxai completion needs shtab: pip install "detxai[completion]"\n'
