"""Measures for images of which it is known what decides."""
