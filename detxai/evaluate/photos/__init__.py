"""The images that methods are evaluated on, and what is known of each."""
