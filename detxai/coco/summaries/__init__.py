"""What is read out of a finished dataset: the findings of the report, mean maps around boxes, overlays."""
