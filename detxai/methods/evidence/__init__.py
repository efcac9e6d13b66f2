"""The maps that pixel evidence chooses from."""
