"""Run notebooks and keep their outputs for the site: python docs/make/run_notebooks.py [NOTEBOOK ...]"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import PIL.Image
from notebook_pages import digest_of_code, outputs_file

TUTORIALS = Path(__file__).parents[1] / "tutorials"
WIDEST = 1000  # pixels of a picture


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="default: all of docs/tutorials")
    for notebook in parser.parse_args(arguments).notebooks or sorted(TUTORIALS.glob("*.ipynb")):
        keep_outputs(notebook)
        print(outputs_file(notebook))


def keep_outputs(notebook: Path) -> None:
    """Run a notebook and write what it printed and drew."""
    file = outputs_file(notebook)
    file.parent.mkdir(exist_ok=True)
    for old in file.parent.glob(f"{notebook.stem}_*.webp"):
        old.unlink()
    cells = run(notebook)
    outputs = []
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        outputs.append([_kept(output, file, f"{number}_{i}") for i, output in enumerate(_shown(cell["outputs"]))])
    digest = digest_of_code(json.loads(notebook.read_text(encoding="utf-8"))["cells"])
    file.write_text(json.dumps({"code": digest, "outputs": outputs}, indent=1) + "\n", encoding="utf-8")


def run(*notebooks: Path) -> list[Any]:
    """Run notebooks one after the other in one kernel and an empty folder; all their cells, with outputs.

    Variables are cleared between two notebooks, so that each stands on its own.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    whole = nbformat.v4.new_notebook()
    for notebook in notebooks:
        if whole.cells:
            whole.cells.append(nbformat.v4.new_code_cell("%reset -f"))
        whole.cells += nbformat.read(notebook, as_version=4).cells
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
        resources = {"metadata": {"path": folder}}
        client = nbclient.NotebookClient(whole, timeout=1200, kernel_name="python3", resources=resources)
        client.execute(env=environment)
    return list(whole.cells)


def _shown(outputs: Sequence[Any]) -> list[Any]:
    """What a reader should see: not progress bars and log lines, which go to standard error."""
    joined: list[Any] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if output["output_type"] == "stream" and joined and joined[-1]["output_type"] == "stream":
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def _kept(output: Any, file: Path, number: str) -> dict[str, str]:
    if output["output_type"] == "stream":
        return {"text": output["text"]}
    data = output["data"]
    if "image/png" in data:
        name = f"{file.stem}_{number}.webp"
        picture = PIL.Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        picture.thumbnail((WIDEST, 4 * WIDEST))
        picture.save(file.parent / name, "WEBP", quality=82, method=6)
        return {"picture": name, "alt": _alternative(data.get("text/plain", ""))}
    return {"html": data["text/html"]} if "text/html" in data else {"text": data["text/plain"]}


def _alternative(text: str) -> str:
    """What a reader who cannot see a picture gets: an explanation says what it is, a sheet of several does not."""
    return text if text.startswith("Explanation(") else "What the cell above drew"


if __name__ == "__main__":
    main()
