"""Detections in the formats of other tools, and back. The tools are not imported to read their objects."""

from detxai.formats.categories import category_names, match_categories, plain_name
from detxai.formats.coco import from_coco, to_coco_annotations, to_coco_results
from detxai.formats.sahi import from_sahi
from detxai.formats.supervision import from_supervision, to_supervision
from detxai.formats.torchvision import from_torchvision, to_torchvision
from detxai.formats.ultralytics import from_ultralytics, to_ultralytics

__all__ = [
    "category_names",
    "from_coco",
    "from_sahi",
    "from_supervision",
    "from_torchvision",
    "from_ultralytics",
    "match_categories",
    "plain_name",
    "to_coco_annotations",
    "to_coco_results",
    "to_supervision",
    "to_torchvision",
    "to_ultralytics",
]
