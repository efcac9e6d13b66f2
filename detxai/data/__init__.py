"""Data sets as files: annotations and predictions, checked before any work."""
