"""Run folders: a long command fills one, can be killed at any moment, and goes on from there.

``folder.RunFolder`` is the folder itself. Around it: ``files`` writes a file whole or not at all, ``tables`` a Parquet
file; ``checkpoints`` keeps where a training stopped; ``numbered`` picks a new folder where one is taken; ``names``
makes file names; ``request`` compares what was requested; ``shards`` divides the work; ``failures`` decides which
exception ends a run; ``interrupting`` hears Ctrl-C.
"""
