"""Ablation of one-stage detectors: a level's branches of convolutions, window by window."""
