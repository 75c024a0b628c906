"""Channel spaces: every tensor axis that must agree on the meaning of "channel i", of any graph.

Each channel of each activation gets a number, its *coordinate*, and the numbers flow through the
graph as the data does: a Reshape reshapes the array of coordinates, a Concat concatenates it, an
Add says that the coordinates of its operands are the same (:mod:`.trace`).  New data has new
numbers, linked to those that it was made of, so that two rows, or a stream in front of a layer and
behind it, are never taken for one where parts of both are joined.  What linear ops write
and read these coordinates, and what each operator in between leaves possible, makes the spaces
(:mod:`.find_spaces`).  No architecture, no name of a node is known here.
"""
