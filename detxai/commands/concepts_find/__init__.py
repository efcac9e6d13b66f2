"""``detxai concepts find``."""
