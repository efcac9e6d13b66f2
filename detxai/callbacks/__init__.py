"""Training callbacks: explain a detector while it learns."""
