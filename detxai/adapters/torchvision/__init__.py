"""torchvision's detectors: what they share, then one file per family of one-stage detectors."""
