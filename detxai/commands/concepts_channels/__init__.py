"""``detxai concepts channels``."""
