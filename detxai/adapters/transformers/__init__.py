"""Query detectors of the transformers library (DETR and its descendants, YOLOS), and RF-DETR's own package."""
