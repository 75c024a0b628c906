"""Which weight gets which format, within a budget of bits."""
