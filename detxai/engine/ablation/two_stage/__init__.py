"""Ablation of two-stage detectors: proposals, and what the box head makes of them."""
