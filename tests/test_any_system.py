"""What holds on Linux holds on macOS and Windows: no module of one system only, no processes of our own."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from detxai.bench.ablation import _peak_mb
from detxai.data.image_files import ImageFile, decoded

ROOT = Path(__file__).parents[1]
OF_ONE_SYSTEM = {"resource", "fcntl", "termios", "pwd", "grp", "msvcrt", "winreg"}
SOURCES = [
    file for room in ("detxai", "targets", "reshape", "examples") for file in sorted((ROOT / room).rglob("*.py"))
]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_modules_of_one_system_are_imported_where_they_are_used(file: Path) -> None:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not OF_ONE_SYSTEM & {name.partition(".")[0] for name in names}


def test_without_the_resource_module_the_peak_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (_peak_mb(torch.device("cpu")) or 0) > 0
    monkeypatch.setitem(sys.modules, "resource", None)  # an import of it now fails, as on Windows
    assert _peak_mb(torch.device("cpu")) is None


def image_files(folder: Path, n: int) -> list[ImageFile]:
    """Images of which every fourth is none."""
    files = []
    for number in range(n):
        path = folder / f"{number}.png"
        PIL.Image.fromarray(np.full((4, 5, 3), number, np.uint8)).save(path)
        if number % 4 == 3:
            path.write_bytes(b"no image")
        files.append(ImageFile(number, path.name, str(path)))
    return files


@pytest.mark.parametrize("workers", [1, 3])
def test_images_decoded_ahead_come_in_their_order(tmp_path: Path, workers: int) -> None:
    files = image_files(tmp_path, 30)
    plain, ahead = list(decoded(files)), list(decoded(files, workers))
    assert [file for file, _ in ahead] == files
    for (_, one), (_, other) in zip(plain, ahead, strict=True):
        assert type(one) is type(other)
        np.testing.assert_array_equal(one, other)
    assert sum(isinstance(one, str) and "is not an image" in one for _, one in ahead) == 7


def test_a_script_without_a_guard_decodes_ahead_where_processes_are_spawned(tmp_path: Path) -> None:
    image_files(tmp_path, 3)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import multiprocessing
            multiprocessing.set_start_method("spawn")  # as on macOS and Windows
            from detxai.data.image_files import ImageFile, decoded
            files = [ImageFile(n, "", {str(tmp_path)!r} + f"/{{n}}.png") for n in range(3)]
            print("once", [array.shape for _, array in decoded(files, workers=2)])
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["once [(4, 5, 3), (4, 5, 3), (4, 5, 3)]"]
