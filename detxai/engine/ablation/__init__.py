"""Channels: many ablations of one image, each recomputing only what it can change."""
