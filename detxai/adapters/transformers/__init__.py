"""Query detectors of the transformers library: DETR and its descendants, and YOLOS."""
