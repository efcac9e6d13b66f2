"""Object storage and other places that fsspec reaches: ``s3://``, ``gs://``, ``memory://``, ``file://`` and more."""
