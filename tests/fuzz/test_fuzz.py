"""The short form of the fuzzer, and that it would notice what it looks for."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import onnx
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from mutate import CHANGES, graphs, mutate  # noqa: E402
from run import GOOD, fuzz  # noqa: E402
from seeds import SEEDS  # noqa: E402
from worker import make_case, run_case  # noqa: E402

COUNT = 200


def test_broken_models_are_converted_or_refused() -> None:
    """No crash, no hang, no traceback, nothing left behind."""
    faults = [result for result in fuzz(range(COUNT)) if result["outcome"] not in GOOD]
    assert not faults, "\n".join(f"{each['number']}: {each['error']}" for each in faults)


@pytest.fixture(scope="module")
def seeds() -> dict[str, dict[str, bytes]]:
    return {make.__name__: make() for make in SEEDS}


@pytest.mark.parametrize("name", [make.__name__ for make in SEEDS])
def test_the_sound_models_convert(name: str, seeds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.make_case", lambda number, _: (name, seeds[name]))
    result = run_case(0, seeds)
    assert result["outcome"] == "converted", result


def test_a_case_is_the_same_whenever_it_is_asked(seeds) -> None:
    again = {make.__name__: make() for make in SEEDS}
    changed = 0
    for number in range(300):
        first, second = make_case(number, seeds), make_case(number, again)
        assert first == second
        changed += first[1] != seeds[first[0]]
    assert changed > 250


def test_every_kind_of_change_changes_something(seeds) -> None:
    for change in set(CHANGES):
        differing = 0
        for name, files in seeds.items():
            if name == "gguf":
                continue
            for seed in range(5):
                proto = onnx.ModelProto.FromString(files["m.onnx"])
                rng = random.Random(seed)
                change(proto, rng.choice(graphs(proto)), rng)
                differing += proto.SerializeToString(deterministic=True) != files["m.onnx"]
        assert differing, change.__name__


def test_bytes_of_any_file_can_be_broken(seeds) -> None:
    content = seeds["gguf"]["m.gguf"]
    broken = [mutate(content, random.Random(seed), False) for seed in range(40)]
    assert sum(each != content for each in broken) > 30
    assert {len(each) < len(content) for each in broken} == {True, False}
    assert mutate(b"", random.Random(1), True) is not None


WORKER = """
import json, os, signal, sys, time
print("ready", flush=True)
for line in sys.stdin:
    number = int(line)
    if number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 2:
        time.sleep(600)
    if number == 3:
        sys.exit(9)
    print(json.dumps({"number": number, "outcome": "converted"}), flush=True)
"""


def test_crashes_and_hangs_are_noticed(tmp_path: Path) -> None:
    """A worker that dies costs one case, and the next one is served by another."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    found = [(r["outcome"], r.get("error")) for r in fuzz(range(5), watchdog=5.0, script=script)]
    assert found == [
        ("converted", None),
        ("crash", "SIGSEGV"),
        ("hang", "over 5 s"),
        ("crash", "exit code 9"),
        ("converted", None),
    ]


def test_faults_and_tracebacks_are_told_apart(seeds, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitfold.runtime.errors import BitfoldError, ModelError

    for error, outcome in (
        (ModelError("broken"), "refused"),
        (BitfoldError("pass x failed", hint="this is a fault of the pass"), "fault"),
        (KeyError("x"), "traceback"),
        (MemoryError(), "memory"),
    ):

        def broken(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("worker.inspect", broken)
        assert run_case(0, seeds)["outcome"] == outcome
