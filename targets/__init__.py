"""Targets: which number is explained, as a callable from a detector's output to one differentiable scalar."""

if __name__ != "detxai.targets":
    raise ImportError("import detxai.targets, not targets; run pip install -e . first")

from detxai.targets.box_score import BoxScoreTarget
from detxai.targets.box_side import BoxSideTarget
from detxai.targets.class_score import ClassScoreTarget
from detxai.targets.contrast import ContrastTarget
from detxai.targets.similarity import SimilarityTarget
from detxai.targets.target import BoxTarget, Target, ask_about, score_targets

__all__ = [
    "BoxScoreTarget",
    "BoxSideTarget",
    "BoxTarget",
    "ClassScoreTarget",
    "ContrastTarget",
    "SimilarityTarget",
    "Target",
    "ask_about",
    "score_targets",
]
