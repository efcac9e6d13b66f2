"""Detectors, wrapped: one file per family; whatever differs between detectors lives here and nowhere else."""
