"""``detxai demo``: the bundled detectors explain scenes whose evidence is known."""
