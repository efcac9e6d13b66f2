"""Explainers that are trained once for a detector and then answer in one pass."""
