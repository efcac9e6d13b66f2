"""What every run folder needs: files that are whole or not there, and the request that a folder belongs to."""
