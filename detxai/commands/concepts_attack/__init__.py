"""``detxai concepts attack``."""
