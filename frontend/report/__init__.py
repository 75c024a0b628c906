"""The report of a conversion as one page that a browser shows, and the measurements behind it."""
