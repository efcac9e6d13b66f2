"""How the detectors of the scenes are trained."""
