"""Rotations learned by descent on the error that rounding is expected to make; NumPy alone."""
