"""A run over Ray: images read in tasks, explained in workers that hold the detector, written by the process that asks.

``engine`` is the ``Engine`` that ``detxai.coco.run`` uses; ``pipeline`` streams images through ``ray.data``; ``worker``
is what runs in a worker; ``attempts`` counts how often an image killed one; ``detector_source`` brings the detector
there; ``cluster`` starts Ray, or finds a cluster. Ray is imported when a run uses it, and only there.
"""
