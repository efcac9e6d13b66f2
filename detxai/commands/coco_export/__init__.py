"""``detxai coco export``: its arguments, read quickly, and what it does, imported when it runs."""
