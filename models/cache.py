"""Where downloaded and built files live: outside the repository, shared between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "BITFOLD_CACHE"


def cache_folder() -> Path:
    """The cache's folder: `$BITFOLD_CACHE`, else the platform's place for caches.

    The folder need not exist; whoever writes into it creates it.
    """
    override = os.environ.get(VARIABLE)
    if override:
        return Path(override).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "bitfold"
