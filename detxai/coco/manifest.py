"""What a run was asked: enough to go on with it, and to refuse to go on with another one."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detxai.coco.folder import CocoFolder
from detxai.coco.same_images import expect_same_images
from detxai.coco.schema import FORMAT
from detxai.explanation import plain
from detxai.runs.request import different_entries
from detxai.runs.versions import installed_versions

log = logging.getLogger(__name__)

PACKAGES = ("detxai", "torch", "torchvision", "ultralytics", "pycocotools", "pyarrow")


def fingerprint(coco: Any) -> str:
    """SHA-256 of what counts in annotations or results: images, categories and boxes; the order of entries too."""
    digest = hashlib.sha256()
    for image in coco.dataset.get("images", []):
        digest.update(f"{image['id']} {image['file_name']}\n".encode())
    for category in coco.dataset.get("categories", []):
        digest.update(f"{category['id']} {category['name']}\n".encode())
    for record in coco.dataset.get("annotations", []):
        numbers = [record["id"], record["image_id"], record["category_id"], record.get("iscrowd", 0)]
        numbers += [*record["bbox"], record.get("score", -1), record["area"]]
        digest.update(np.array(numbers, dtype=np.float64).tobytes())
    return digest.hexdigest()


def begin(folder: CocoFolder, question: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write the manifest of a new run, or check that the folder holds this run.

    Args:
        folder: of the run.
        question: all that decides what the dataset holds.
        about: further entries that do not, such as the command.

    Raises:
        ValueError: the folder holds another run, or something else, or other images than it explained.
        WriteError: nothing can be written there.
    """
    requested = json.loads(json.dumps({"format": FORMAT, **plain(question)}))  # as it will read back
    versions = installed_versions(PACKAGES)
    content = {"question": requested, "versions": versions, **plain(about)}
    saved = folder.open(content)
    if not isinstance(saved.get("question"), dict):
        raise ValueError(f"out: {folder.request_path} is damaged; give a new folder")
    if saved["question"] != requested and take_over(folder, saved["question"], requested):
        folder.write_json(folder.request_path, content)
    else:
        folder.expect_same(saved["question"], requested)
    if saved.get("versions") != versions:
        log.warning("this run was begun with other versions (%s): maps may differ a little", saved.get("versions"))
    if saved.get("images") != about.get("images"):
        expect_same_images(folder, Path(str(about.get("images"))))
        folder.write_json(folder.request_path, {**saved, "images": about.get("images")})


def mark_refused(folder: CocoFolder) -> None:
    """Say that every image failed: another request may take the folder, unless something is explained after all."""
    folder.write_text(_refused(folder), "every image failed\n")


def take_over(folder: CocoFolder, saved: Mapping[str, Any], requested: Mapping[str, Any]) -> bool:
    """Whether a folder whose own request was refused is free for this one; predictions that answer it stay."""
    if not _refused(folder).is_file() or folder.has_rows():
        return False
    changed = set(different_entries(saved, requested))
    stale = [folder.parts / "plan.txt"]
    if not changed <= {"method", "settings"}:
        stale += [folder.predictions, *folder.parts.glob("detected-*"), *folder.parts.glob("failures-*")]
    for path in (*stale, _refused(folder)):
        path.unlink(missing_ok=True)
    return True


def _refused(folder: CocoFolder) -> Path:
    return folder.parts / "refused.txt"
