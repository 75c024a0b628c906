"""Five levels {-2, ..., 2}, ABQ-LLM's balanced alternative to int2 (arXiv 2408.08554, section 3.3).

The fifth level makes the range even, which int2's {-2, -1, 0, 1} is not.  A code takes three bits
here: what int3 takes, which has all of these levels and three more.
"""

from __future__ import annotations

from bitfold.runtime.formats.format import Format

QUINARY = Format("quinary", 3, (-2, -1, 0, 1, 2))
