"""How the parts of the dataset are made: the work cut into parts, each image explained, its maps packed and written."""
