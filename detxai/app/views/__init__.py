"""What the page shows, a file for each of its pages."""
