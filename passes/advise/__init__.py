"""Which changes of coordinates pay at a scheme: they are tried, measured, and kept if they do."""
