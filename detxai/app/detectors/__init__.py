"""The detectors of the page: what can be chosen or uploaded, and how visitors share their weights."""
