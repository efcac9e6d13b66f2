"""``detxai coco export``: the explanations of a run, handed to another tool."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path

from detxai.coco.dataset import ExplainedBoxes, load
from detxai.coco.exports.fiftyone import to_fiftyone
from detxai.coco.exports.hub import to_datasets
from detxai.coco.exports.label_studio import label_studio_config, to_label_studio
from detxai.coco.exports.supervision import save_annotated
from detxai.coco.exports.tensorboard import to_tensorboard
from detxai.coco.exports.wandb import log_to_project
from detxai.runs.files import make_folder, write_json, write_text


def run(given: argparse.Namespace) -> int:
    """Hand over what was asked for; the exit code."""
    logging.getLogger("detxai.coco").setLevel(logging.INFO if not given.json else logging.WARNING)
    explained = load(given.folder, given.images)
    chosen = explained.filter(kind=given.kinds, category=given.classes, score=given.min_score)
    if not len(chosen):
        raise ValueError(f"none of the {len(explained)} explanations in {given.folder} is of these kinds and classes")
    said = EXPORTERS[given.to](chosen, given.into)
    if given.json:
        print(json.dumps({"to": given.to, "into": given.into, "explanations": len(chosen)}))
    else:
        print(f"{len(chosen)} explanations handed over; {said}")
    return 0


def _fiftyone(chosen: ExplainedBoxes, into: str) -> str:
    to_fiftyone(chosen, into, persistent=True)
    return f"fiftyone app launch {into}"


def _datasets(chosen: ExplainedBoxes, into: str) -> str:
    folder = _new_folder(into)
    to_datasets(chosen).save_to_disk(str(folder))
    return f"datasets.load_from_disk({str(folder)!r})"


def _label_studio(chosen: ExplainedBoxes, into: str) -> str:
    folder = _new_folder(into)
    make_folder(folder)
    names = chosen.manifest["class_names"].values()
    categories = sorted({row["category"] for row in chosen.table(["category"]).to_pylist()}.union(names))
    write_text(folder / "config.xml", label_studio_config(categories))
    write_json(folder / "tasks.json", list(to_label_studio(chosen)))
    return f"{folder / 'config.xml'} is the labelling interface, {folder / 'tasks.json'} what to import"


def _supervision(chosen: ExplainedBoxes, into: str) -> str:
    return f"{len(save_annotated(chosen, Path(into)))} pictures in {into}"


def _tensorboard(chosen: ExplainedBoxes, into: str) -> str:
    to_tensorboard(chosen, Path(into))
    return f"tensorboard --logdir {into}"


def _wandb(chosen: ExplainedBoxes, into: str) -> str:
    log_to_project(chosen, into, chosen.folder.root)
    return f"in project {into}"


EXPORTERS: dict[str, Callable[[ExplainedBoxes, str], str]] = {
    "fiftyone": _fiftyone,
    "datasets": _datasets,
    "label-studio": _label_studio,
    "supervision": _supervision,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}


def _new_folder(into: str) -> Path:
    folder = Path(into)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--into must be a new or empty folder, got {folder}")
    return folder
