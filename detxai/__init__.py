"""Explain object detections: which pixels put this box, with this class, here?"""
