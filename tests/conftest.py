"""Settings of all tests."""

import os

from hypothesis import settings

# No deadline: a slow machine is no failure.  In CI every run draws the same examples.
settings.register_profile("bitfold", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("bitfold")
