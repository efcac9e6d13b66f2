"""Pixels hidden and shown: regions, the orders in which they appear, and the scores of what can then be seen."""
