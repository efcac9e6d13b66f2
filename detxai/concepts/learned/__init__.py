"""A learned explainer: trained once for a detector, then one pass for each box (method ``l2x``)."""
