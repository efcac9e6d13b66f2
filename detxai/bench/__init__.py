"""What a method costs, here and elsewhere, side by side in one process."""
