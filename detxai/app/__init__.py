"""The web page: it lays out and calls the library."""
