"""Attacks on one box: what they aim at, and projected gradient descent."""
