"""Concepts of a detector's features: which cells belong to each, and what a box's score is without one."""
