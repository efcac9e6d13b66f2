"""Training callbacks: what a detector looks at while it learns."""
