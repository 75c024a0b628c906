"""Settings of all tests."""

import copy
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# No deadline: a slow machine is no failure.  In CI every run draws the same examples.
settings.register_profile("bitfold", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("bitfold")

GENERATORS: dict[int, tuple[np.random.Generator, Any]] = {}
"""The generators that test modules share among their tests, with their states before any ran."""


def pytest_collection_finish(session: pytest.Session) -> None:
    for module in {item.module for item in session.items if isinstance(item, pytest.Function)}:
        for value in vars(module).values():
            if isinstance(value, np.random.Generator):
                state = copy.deepcopy(value.bit_generator.state)
                GENERATORS.setdefault(id(value), (value, state))


@pytest.fixture(autouse=True)
def same_draws(request: pytest.FixtureRequest) -> None:
    """Let a test draw the same numbers whichever tests ran before it in its process."""
    for value in vars(request.module).values():
        if id(value) in GENERATORS:
            generator, state = GENERATORS[id(value)]
            generator.bit_generator.state = state
