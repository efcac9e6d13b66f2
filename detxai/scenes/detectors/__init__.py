"""The small detectors of the scenes: architecture, weights, and proof of what they decide by."""
