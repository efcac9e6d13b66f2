"""Black boxes: detectors of which only the answers are known."""
