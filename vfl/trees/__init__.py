"""Gradient-boosted trees: bins, objectives, splits and histograms; the protocol is ``vfl.boosting``."""
