"""A detector as other libraries want it."""
