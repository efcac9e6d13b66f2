"""``manifest.json``: what a run was started with, so that it goes on with the same settings and refuses others."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from detxai.coco.folder import CocoFolder
from detxai.coco.request import CocoRequest
from detxai.coco.schema import FORMAT
from detxai.data.image_files import ImageFolder, load_file
from detxai.explanation import plain, settings_of
from detxai.images import pixels_sha256, to_uint8
from detxai.runs.remote.address import path_or_address
from detxai.runs.request import different_entries
from detxai.runs.tables import import_pyarrow, is_whole_table
from detxai.runs.versions import installed_versions

log = logging.getLogger(__name__)

PACKAGES = ("detxai", "torch", "torchvision", "ultralytics", "pycocotools", "pyarrow")


def question_of(request: CocoRequest) -> dict[str, Any]:
    """All that decides what the dataset holds."""
    options = request.options
    return {
        "model": request.detector.describe(),
        "weights_sha256": request.detector.fingerprint(),
        "annotations_sha256": fingerprint(request.annotations),
        "predictions_sha256": None if request.predictions is None else fingerprint(request.predictions),
        "label_to_category": {str(label): category for label, category in request.label_to_category.items()},
        "method": request.method.name,
        "settings": settings_of(request.method),
        "selection": request.selection.record(),
        "iou": options.iou,
        "operating_point": request.operating_point,
        "score_threshold": request.score_threshold,
        "map_stride": options.map_stride,
        "rows_per_part": options.rows_per_part,
    }


def about(request: CocoRequest) -> dict[str, Any]:
    """Entries of the manifest that do not decide what the dataset holds."""
    names = {str(label): name for label, name in request.detector.class_names.items()}
    return {"images": str(request.images.resolve()), "class_names": names, **request.about}


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


def begin(folder: CocoFolder, question: Mapping[str, Any], about: Mapping[str, Any], *, widen: bool = False) -> None:
    """Write the manifest of a new run, or check that the folder holds this run.

    Args:
        folder: of the run.
        question: all that decides what the dataset holds.
        about: further entries that do not, such as the command.
        widen: another selection is no other run; the manifest then stays as it is until ``set_question``.

    Raises:
        ValueError: the folder holds another run, or something else, or other images than it explained.
        WriteError: nothing can be written there.
    """
    requested = _as_saved(question)
    content = {"question": requested, "versions": installed_versions(PACKAGES), **plain(about)}
    saved = folder.open(content)
    if not isinstance(saved.get("question"), dict):
        raise ValueError(f"out: {folder.request_path} is damaged; give a new folder")
    if not (widen and different_entries(saved["question"], requested) == ["selection"]):
        if saved["question"] != requested and _take_over(folder, saved["question"], requested):
            folder.write_json(folder.request_path, content)
        else:
            _expect_same_run(folder, saved["question"], requested)
    if saved.get("versions") != content["versions"]:
        log.warning("this run was started with other versions (%s): maps may differ a little", saved.get("versions"))
    if saved.get("images") != about.get("images"):
        _expect_same_images(folder, path_or_address(str(about.get("images"))))
        folder.write_json(folder.request_path, {**saved, "images": about.get("images")})


def set_question(folder: CocoFolder, question: Mapping[str, Any]) -> None:
    """Bring the manifest of a run that was widened up to date."""
    saved = folder.read_request()
    if saved["question"] != _as_saved(question):
        folder.write_json(folder.request_path, {**saved, "question": _as_saved(question)})


def mark_refused(folder: CocoFolder) -> None:
    """Mark the folder as one whose every image failed: another request may take it until something is explained."""
    folder.write_text(_refused(folder), "every image failed\n")


def _as_saved(question: Mapping[str, Any]) -> dict[str, Any]:
    """The question as JSON gives it back."""
    saved: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **plain(question)}))
    return saved


def _expect_same_run(folder: CocoFolder, saved: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    if "format" in saved and saved["format"] != requested.get("format"):
        raise ValueError(
            f"out: {folder.root} holds a run of another version of detxai (format {saved['format']}, this one writes "
            f"{requested.get('format')}); detxai.coco.load reads it, and to go on with it needs that version; "
            "give a new folder"
        )
    folder.expect_same(saved, requested)


def _take_over(folder: CocoFolder, saved: Mapping[str, Any], requested: Mapping[str, Any]) -> bool:
    """Whether the folder was marked by ``mark_refused``; if so it is cleared for this request.

    The predictions stay where both requests want the same ones.
    """
    if not _refused(folder).is_file() or folder.has_rows():
        return False
    stale = [folder.plan, folder.plan_of_format_3]
    if not set(different_entries(saved, requested)) <= {"method", "settings"}:
        stale += [folder.predictions, *folder.parts.glob("detected-*"), *folder.parts.glob("failures-*")]
    for path in (*stale, _refused(folder)):
        path.unlink(missing_ok=True)
    return True


def _refused(folder: CocoFolder) -> Path:
    return folder.parts / "refused.txt"


def _expect_same_images(folder: CocoFolder, images: ImageFolder) -> None:
    """Raise where an image in ``images`` is another picture than the run has seen under its name.

    Images that are missing or damaged are skipped here: the run itself reports them where it needs them.

    Args:
        folder: of the run.
        images: the folder of images that it is to go on with.

    Raises:
        ValueError: naming the image.
    """
    for name, seen in sorted(_seen_images(folder).items()):
        try:
            now = pixels_sha256(to_uint8(load_file(images / name)))
        except (OSError, ValueError):
            continue
        if now != seen:
            raise ValueError(
                f"images: {images / name} is not the picture that the run in {folder.root} has seen under this name; "
                "give the images of that run, or a new folder"
            )


def _seen_images(folder: CocoFolder) -> dict[str, str]:
    """File name -> ``pixels_sha256`` of every image that was detected or explained in."""
    seen: dict[str, str] = {}
    for chunk in folder.parts.glob("detected-*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged one is made anew
            seen |= json.loads(chunk.read_text(encoding="utf-8"))["images"]
    for part in filter(is_whole_table, folder.explanations.glob("part-*.parquet")):
        table = import_pyarrow().parquet.read_table(part, columns=["file_name", "image_sha256"])
        seen |= dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return seen
