"""Which method to believe, on a detector and data of the user's own: every method measured on the same detections."""

from detxai.evaluate.measuring import make_measures
from detxai.evaluate.photos.coco_photos import annotated_photos, coco_photos
from detxai.evaluate.photos.scene_photos import scene_photos
from detxai.evaluate.run import Evaluation, evaluate

__all__ = ["Evaluation", "annotated_photos", "coco_photos", "evaluate", "make_measures", "scene_photos"]
