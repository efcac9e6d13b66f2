"""COCO files in, explanations out: why the false positives happened, and the misses did.

A run goes through four stages, ``detect``, ``label``, ``explain`` and ``report``, each a module of that name that reads
and writes files of one folder (``folder.CocoFolder``). ``run`` calls them in order; ``api`` is what scripts call.
"""

from detxai.coco.api import explain_errors, make_report
from detxai.coco.dataset import ExplainedBoxes, load
from detxai.coco.options import Finished, Options
from detxai.coco.selection import Selection

__all__ = ["ExplainedBoxes", "Finished", "Options", "Selection", "explain_errors", "load", "make_report"]
