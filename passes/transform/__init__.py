"""Changes of coordinates: one small operation on the channel spaces of any graph."""
