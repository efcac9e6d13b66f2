"""What scripts call: pycocotools' own objects in, a dataset of explanations out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from detxai.adapters.detector import Detector
from detxai.adapters.registry import wrap
from detxai.coco.dataset import ExplainedBoxes
from detxai.coco.folder import CocoFolder
from detxai.coco.options import Finished, Options, expect_whole
from detxai.coco.report import write_report
from detxai.coco.request import CocoRequest
from detxai.coco.run import run
from detxai.coco.selection import Selection
from detxai.data.categories import label_to_category
from detxai.data.coco_files import as_annotations, as_predictions
from detxai.data.cocoeval import finished
from detxai.explain import Method, make_method
from detxai.messages import did_you_mean
from detxai.runs.remote.address import Address, path_or_address
from detxai.runs.remote.copied_folder import working_folder
from detxai.runs.tables import import_pyarrow


def explain_errors(
    coco_gt: Any,
    coco_dt: Any | None,
    detector: Detector | Any,
    *,
    images: str | PathLike[str] | Address,
    out: str | PathLike[str] | Address,
    method: str | Method = "ablation_cam",
    settings: Mapping[str, Any] | None = None,
    evaluation: Any | None = None,
    selection: Selection | None = None,
    labels: str | PathLike[str] | Mapping[Any, Any] | None = None,
    **options: Any,
) -> Finished:
    """Explain a detector's mistakes on a COCO dataset: which pixels made the false positives, and hid the misses.

    Args:
        coco_gt: a ``COCO`` of annotations, pycocotools' or faster-coco-eval's.
        coco_dt: a ``COCO`` of results, from ``coco_gt.loadRes``; None: the detector makes the predictions.
        detector: from ``detxai.wrap``, or anything ``wrap`` takes.
        images: the folder that the annotations' ``file_name`` are in, or its address (``s3://...``).
        out: a new folder, or one of the same run, which then goes on where it stopped; or an address, where what is
            finished is copied to while the run goes on.
        method: a method's name, or a method with its settings.
        settings: the method's settings, where it is given by name.
        evaluation: a finished ``COCOeval`` of the two, whose matches are used; default: one is made.
        selection: which boxes; default: false positives from the operating point on (a score of 0.25, unless
            ``operating_point`` says otherwise), and annotations that are missed there.
        labels: which label is which category: see ``detxai.data.categories.label_to_category``.
        options: of ``detxai.coco.options.Options``: ``iou``, ``workers``, ``overlays``, ``map_stride``, ...

    Returns:
        What was done. ``detxai.coco.load(out)`` reads the explanations.

    Raises:
        TypeError, ValueError, LookupError: bad arguments, before anything is written.
        ImportError: pyarrow or pycocotools is not installed.
    """
    import_pyarrow()
    known = [field.name for field in dataclasses.fields(Options)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(
            "explain_errors has the options of detxai.coco.options.Options, "
            f"got {', '.join(unknown)}{did_you_mean(unknown[0], known)}"
        )
    chosen, made = Options(**options), quiet_method(method, settings or {})
    photos, place = path_or_address(images), path_or_address(out)
    if isinstance(photos, Path) and not photos.is_dir():
        raise FileNotFoundError(f"images: no such folder: {photos}")
    if isinstance(place, Path) and place.exists() and not place.is_dir():
        raise ValueError(f"out must be a folder, got the file {out}")
    expect_whole(place, chosen)
    annotations = as_annotations(_content(coco_gt, "coco_gt"), "coco_gt")
    predictions = None
    if coco_dt is not None:
        predictions = as_predictions(_content(coco_dt, "coco_dt")["annotations"], annotations, "coco_dt")
    if evaluation is not None:
        evaluation = finished(evaluation)
        annotations, predictions = evaluation.cocoGt, evaluation.cocoDt
    wrapped = wrap(detector)
    pairs = label_to_category(wrapped, annotations, labels)
    selected = Selection() if selection is None else selection
    with working_folder(place) as folder:
        request = CocoRequest(
            wrapped, made, photos, annotations, predictions, pairs, CocoFolder(folder), selected, chosen, evaluation
        )
        return dataclasses.replace(run(request), address=place if isinstance(place, Address) else None)


def make_report(folder: str | PathLike[str], images: str | PathLike[str] | None = None) -> Path:
    """Write ``report.html`` of a run again, from its folder alone: no detector is needed.

    Args:
        folder: the ``out`` of a run whose parts are all there.
        images: folder of the images; default: the one the run was given.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: ``folder`` is not of a run.
    """
    coco_folder = CocoFolder(Path(folder))
    explained = ExplainedBoxes(folder, images)
    record = json.loads(coco_folder.evaluation.read_text(encoding="utf-8"))
    return write_report(coco_folder, record, explained.images)


def quiet_method(method: str | Method, settings: Mapping[str, Any]) -> Method:
    """The method; by name, without a progress bar of its own: the run has one."""
    made = make_method(method, **settings)
    silent = isinstance(method, str) and "progress" not in settings
    if silent and any(field.name == "progress" for field in dataclasses.fields(made)):  # type: ignore[arg-type]
        made = make_method(method, **settings, progress=False)
    return made


def _content(coco: Any, name: str) -> Any:
    content = getattr(coco, "dataset", None)
    if not isinstance(content, dict):
        raise TypeError(f"{name} must be a COCO object, as pycocotools.coco.COCO gives it, got {type(coco).__name__}")
    return content
