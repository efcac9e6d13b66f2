"""COCO files in, explanations out: why the false positives happened, and the misses did."""

from detxai.coco.dataset import ExplainedBoxes, load
from detxai.coco.explaining import explain_errors
from detxai.coco.options import Finished, Options
from detxai.coco.selecting import Selection

__all__ = ["ExplainedBoxes", "Finished", "Options", "Selection", "explain_errors", "load"]
