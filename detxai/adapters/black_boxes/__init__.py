"""Detectors of which nothing is known but their answers."""
