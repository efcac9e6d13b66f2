"""``detxai concepts learn``."""
