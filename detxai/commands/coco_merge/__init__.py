"""``detxai coco merge``."""
