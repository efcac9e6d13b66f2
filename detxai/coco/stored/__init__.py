"""The dataset as files: its rows read back, its small files put together."""
