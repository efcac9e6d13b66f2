"""The columns of the dataset: one row per box in ``boxes.parquet``, one per explanation in ``explanations/``."""

from __future__ import annotations

from typing import Any

from detxai.runs.tables import import_pyarrow

FORMAT = 3  # of the folder; raised when a column changes its meaning

# name, pyarrow type, meaning
BOX_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("image_id", "int64", "of the image, as in the annotation file"),
    ("file_name", "string", "of the image, below the folder of images"),
    (
        "kind",
        "string",
        "true_positive, localisation, classification, both, duplicate, background, missed, ignored, unannotated",
    ),
    ("category_id", "int64", "predicted, or, where missed, annotated"),
    ("category", "string", "its name"),
    ("box", "box", "x1, y1, x2, y2 in pixels of the image: the prediction's, or the missed annotation's"),
    ("score", "float64", "the prediction's; null where missed"),
    ("prediction_id", "int64", "place in the predictions file, from 1; null where missed"),
    (
        "annotation_id",
        "int64",
        "found, missed or, for a false positive, overlapped; null for one on the background",
    ),
    ("annotation_box", "box", "that annotation's box"),
    ("annotation_category", "string", "that annotation's class"),
    ("iou", "float64", "of box and annotation_box; on the background, the largest with any annotation"),
    ("area", "float64", "square pixels, as COCO counts: an annotation's own area, a prediction's box"),
    (
        "covered_by",
        "int64",
        "where missed: prediction_id of the misplaced or misclassified box that TIDE counts instead",
    ),
    ("found_below", "float64", "where missed: the score of a prediction that finds it below the operating point"),
    ("ap_loss", "float64", "rise of mean AP, at the run's IoU, were this mistake alone not there; null for none"),
)
EXPLANATION_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("row", "int64", "place in the whole dataset, from 0; the same however the run was split"),
    *BOX_COLUMNS,
    ("label", "int64", "the detector's own number of the category"),
    ("image_height", "int32", "pixels"),
    ("image_width", "int32", "pixels"),
    ("image_sha256", "string", "of its pixels, (height, width, 3) uint8 RGB: which picture was explained"),
    ("now_iou", "float64", "IoU of a prediction from a file with the detector's own of the same class now"),
    ("now_score", "float64", "the score of that one; null where there is none"),
    ("score_difference", "float64", "now_score - score"),
    ("reproduced", "bool", "now_iou >= 0.9 and |score_difference| <= 0.05; null where this run made the predictions"),
    ("stage", "string", "where missed: found_now, no_proposal, wrong_class, low_score, suppressed, cut_off"),
    ("candidate_score", "float64", "where missed: the best candidate's score for the annotation's class"),
    ("candidate_iou", "float64", "its IoU with the annotation"),
    ("candidate_box", "box", "and its box"),
    ("other_category", "string", "for wrong_class: the class that scores highest there, by the detector's name"),
    ("other_score", "float64", "and its score"),
    ("suppressor_box", "box", "for suppressed: the detection that overlaps the best candidate most"),
    ("suppressor_score", "float64", "its score"),
    ("suppressor_iou", "float64", "and its IoU with the best candidate"),
    ("energy_box", "float64", "share of the map's positive sum in box (detxai.metrics, EnergyPointingGame)"),
    ("energy_box_chance", "float64", "that of a flat map: the box's share of the image"),
    ("pointing_box", "float64", "whether the map is highest in box (detxai.metrics, PointingGame)"),
    ("method", "string", "the method's name"),
    ("settings", "string", "the method's settings, as JSON"),
    ("asks_about_box", "bool", "false where the map is of the image, the same for all its boxes (eigen_cam)"),
    ("seed", "int64", "the method's; null where it draws nothing at random"),
    ("model", "string", "what was explained, as JSON"),
    ("seconds", "float64", "of the call that made it, shared by all boxes of the image; differs from run to run"),
    ("forward_passes", "int64", "of that call, shared by all boxes of the image"),
    ("map_png", "binary", "8-bit grey PNG: value = map_offset + map_scale * pixel, within map_scale / 2"),
    ("map_scale", "float64", "of one level; 0 for a flat map"),
    ("map_offset", "float64", "the value of pixel 0; the map is signed"),
    ("map_stride", "int32", "image pixels to a stored one along each axis; 1: the image's resolution; or null, and"),
    (
        "map_cells",
        "string",
        "at a layer's resolution: how its cells lie over the image, as JSON; load brings them back",
    ),
)
FAILURE_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("image_id", "int64", "of the image"),
    ("file_name", "string", "of the image"),
    ("step", "string", "reading, detecting or explaining"),
    ("prediction_id", "int64", "of the box that failed; null where all boxes of the image did"),
    ("annotation_id", "int64", "of the missed annotation that failed; null where all boxes of the image did"),
    ("n_boxes", "int64", "how many explanations are missing for it"),
    ("reason", "string", "what went wrong"),
)
TIMED = ("seconds",)  # columns that differ from run to run; all others are the same for the same question


def arrow_schema(columns: tuple[tuple[str, str, str], ...]) -> Any:
    """These columns as a ``pyarrow.Schema``; their meanings travel with the file."""
    pa = import_pyarrow()
    types = {
        "int32": pa.int32(), "int64": pa.int64(), "float64": pa.float64(), "string": pa.string(),
        "binary": pa.binary(), "bool": pa.bool_(), "box": pa.list_(pa.float64()),
    }  # fmt: skip
    fields = [pa.field(name, types[kind], metadata={"description": meaning}) for name, kind, meaning in columns]
    return pa.schema(fields, metadata={"detxai.coco": str(FORMAT)})
