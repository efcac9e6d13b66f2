"""Soft random masks, and what scores under them say of each pixel."""
