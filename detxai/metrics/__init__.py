"""Measures of an explanation, one file each."""
