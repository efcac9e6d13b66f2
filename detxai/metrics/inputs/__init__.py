"""What measures are made from."""
