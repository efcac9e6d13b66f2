"""COCO files in, explanations out."""
