"""Methods that read a file which was made for one detector from many of its boxes."""
