"""What a watched training leaves on disk."""
