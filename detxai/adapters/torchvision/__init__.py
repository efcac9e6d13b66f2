"""torchvision's detectors: what they share, then one file for each family."""
