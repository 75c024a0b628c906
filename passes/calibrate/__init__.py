"""Calibration: what sites read on sample inputs, in the order in which a model computes it."""
