"""Run a check of the kernels in a process of its own: the ISA is chosen when the library loads."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.forkserver
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from bitfold.runtime.op_library import isa as loaded_isa
from bitfold.runtime.op_library import op_library_path

TESTS = Path(__file__).resolve().parents[1]
PATHS = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
FORKS = "forkserver" in multiprocessing.get_all_start_methods()


def run_check(
    module: str, check: str, isa: str, environment: Mapping[str, str] | None = None
) -> None:
    """Run ``support.<module>.CHECKS[check]`` on an ISA.

    Args:
        module: a module of this package.
        check: a name in its ``CHECKS``.
        isa: for ``BITFOLD_ISA``.
        environment: what a new interpreter starts with; without it, one is forked that has the
            imports behind it.

    Raises:
        AssertionError: the process ends otherwise, or there are failures.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        if environment is None and FORKS:
            code = _fork(module, check, isa, folder)
        else:
            code = _start(module, check, {**(environment or {}), "BITFOLD_ISA": isa}, folder)
        errors = (folder / "stderr").read_text(errors="replace")
        assert code == 0, f"exit code {code}: {errors[-6000:]}"
        answer = json.loads((folder / "answer").read_text())
    assert answer["isa"] == isa
    assert not answer["failures"], "\n".join(answer["failures"][:20])


def _start(module: str, check: str, environment: Mapping[str, str], folder: Path) -> int:
    given = {
        "BITFOLD_OP_LIBRARY": str(op_library_path()),
        "PYTHONPATH": PATHS,
        **environment,
    }
    with open(folder / "stderr", "wb") as errors:
        return subprocess.run(
            [sys.executable, "-m", "support.check_process", module, check, str(folder)],
            env={**os.environ, **given},
            stderr=errors,
        ).returncode


def _fork(module: str, check: str, isa: str, folder: Path) -> int:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "support.kernel_checks", "support.conv_checks"])
    with patch.dict(os.environ, PYTHONPATH=PATHS):  # the server ignores this process's sys.path
        multiprocessing.forkserver.ensure_running()
    process = context.Process(
        target=_forked, args=(module, check, isa, str(op_library_path()), folder)
    )
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _forked(module: str, check: str, isa: str, library: str, folder: Path) -> None:
    with open(folder / "stderr", "wb") as errors:
        os.dup2(errors.fileno(), 2)
    os.environ.update(BITFOLD_ISA=isa, BITFOLD_OP_LIBRARY=library)
    _answer(module, check, folder)


def _answer(module: str, check: str, folder: Path) -> None:
    """Write what a check finds, and on which ISA, into ``folder``."""
    checks = import_module(f"support.{module}").CHECKS
    failures = [failure for failure in checks[check]() if failure]
    (folder / "answer").write_text(json.dumps({"failures": failures, "isa": loaded_isa()}))


if __name__ == "__main__":
    _answer(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
