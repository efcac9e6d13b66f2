"""Everything that becomes HTML or a picture."""
