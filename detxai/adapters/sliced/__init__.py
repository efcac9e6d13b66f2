"""Sliced inference: a detector run on overlapping slices of a large image, its boxes merged."""

from detxai.adapters.sliced.detector import SlicedAdapter, is_sliced, parts_of
from detxai.adapters.sliced.slicing import Slicing

__all__ = ["SlicedAdapter", "Slicing", "is_sliced", "parts_of"]
