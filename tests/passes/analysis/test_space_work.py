"""The analysis of spaces takes work in proportion to the graph: counted, not timed."""

import sys
from types import FrameType
from typing import Any

from support.deep_decoder import SMALL, deep_decoder

from bitfold.passes.analysis.spaces.survey import survey_spaces
from bitfold.passes.analysis.spaces.trace_model import trace_model


def elements(layers: int) -> int:
    """Coordinates that a trace holds, in all that it gathers."""
    trace = trace_model(deep_decoder(layers, **SMALL))
    gathered = [port.ids for port in trace.ports] + [link.a for link in trace.links]
    gathered += [limit.ids for limit in trace.limits] + [part.ids for part in trace.parts]
    return sum(ids.size for ids in gathered) + trace.count


def calls(layers: int) -> int:
    """Functions called, Python's and NumPy's, by a survey of all spaces."""
    model, count = deep_decoder(layers, **SMALL), 0

    def seen(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        survey_spaces(model)
    finally:
        sys.setprofile(before)
    return count


def test_what_is_gathered_grows_with_the_layers():
    few, more, many = (elements(layers) for layers in (4, 8, 16))
    assert many - more == 2 * (more - few)


def test_calls_grow_with_the_layers():
    calls(2)  # what is done once only
    few, more, many = (calls(layers) for layers in (4, 8, 16))
    assert many - more <= 2.05 * (more - few)
