"""``detxai coco status``."""
