"""Every bad input gives one line, a hint where one helps, its own exit code, and no file."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from bitfold.frontend.cli.main import cli
from bitfold.frontend.convert import convert
from bitfold.runtime.errors import CalibrationError
from bitfold.runtime.session import Session

FLOAT = TensorProto.FLOAT
MODEL, UNSUPPORTED, CALIBRATION, OUTPUT = 3, 5, 7, 8
"""Exit codes."""


def proto(inner: int = 64, **options: Any) -> onnx.ModelProto:
    """A small model with one site."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((inner, 64)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="mm"),
            helper.make_node("Relu", ["h"], ["y"], name="act"),
        ],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["n", inner])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    imports = [helper.make_opsetid("", options.pop("opset", 18))]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, **options)


def save(folder: Path, made: onnx.ModelProto) -> None:
    (folder / "m.onnx").write_bytes(made.SerializeToString())


@dataclass(frozen=True)
class Bad:
    """One bad input.

    Attributes:
        make: writes the model, ``m.onnx``, and what belongs to it.
        code: the expected exit code.
        says: what the line of the error must hold.
        hint: what the hint must hold.
        arguments: more of the command line.
    """

    make: Callable[[Path], None]
    code: int
    says: str
    hint: str = ""
    arguments: tuple[str, ...] = ()


def written(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "m.onnx").write_bytes(content) and None


def changed(edit: Callable[[onnx.ModelProto], Any], inner: int = 64) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        made = proto(inner)
        edit(made)
        save(folder, made)

    return make


def with_weight(array: np.ndarray[Any, Any]) -> Callable[[Path], None]:
    def edit(made: onnx.ModelProto) -> None:
        made.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))

    return changed(edit)


def poisoned(value: float) -> Callable[[Path], None]:
    weight = np.ones((64, 64), np.float32)
    weight[3, 5] = value
    return with_weight(weight)


def cycle(made: onnx.ModelProto) -> None:
    made.graph.node[0].input[0] = "back"
    made.graph.node.append(helper.make_node("Relu", ["y"], ["back"]))


def unnamed(made: onnx.ModelProto) -> None:
    made.graph.node[1].name = ""
    made.graph.node[1].input.append("x")


def huge_tensor(made: onnx.ModelProto) -> None:
    made.graph.initializer[0].dims[:] = [2**40, 2**40]


def huge_input(made: onnx.ModelProto) -> None:
    dims = made.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_value = 2**40


def huge_result(made: onnx.ModelProto) -> None:
    shape = numpy_helper.from_array(np.array([2**40, 64], np.int64), "shape")
    made.graph.initializer.append(shape)
    made.graph.node.insert(0, helper.make_node("Expand", ["x", "shape"], ["wide"], name="grow"))
    made.graph.node[1].input[0] = "wide"


def external(location: str, size: int | None, length: int = 64 * 64 * 4) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        made = proto()
        tensor = made.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        save(folder, made)
        if size is not None:
            (folder / "w.data").write_bytes(b"\0" * size)

    return make


def outside(folder: Path) -> None:
    external("../w.data", None)(folder)
    (folder.parent / "w.data").write_bytes(b"\0" * 64 * 64 * 4)


def linked(folder: Path) -> None:
    external("w.data", None)(folder)
    secret = folder.parent / "secret"
    secret.write_bytes(b"\0" * 64 * 64 * 4)
    (folder / "w.data").symlink_to(secret)


def samples(**arrays: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        save(folder, proto())
        np.savez(folder / "s.npz", **arrays)

    return make


def sample_file(content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        save(folder, proto())
        (folder / "s.npz").write_bytes(content)

    return make


def pickled(folder: Path) -> None:
    save(folder, proto())
    np.savez(folder / "s.npz", x=np.array([{"a": 1}], dtype=object))


WITH = ("--samples", "s.npz")
NOT_FINITE = "weight 'w' of 'mm' has 1 NaN or infinite value"
X = np.ones((2, 64), np.float32)
CASES = {
    "empty": Bad(written(b""), MODEL, "the file is empty"),
    "truncated": Bad(written(proto().SerializeToString()[:9000]), MODEL, "truncated", "again"),
    "not ONNX": Bad(written(b"<html>404</html>\n"), MODEL, "not an ONNX model"),
    "missing": Bad(lambda folder: None, MODEL, "no such file"),
    "cycle": Bad(changed(cycle), MODEL, "cycle"),
    "unknown operator": Bad(
        changed(lambda m: setattr(m.graph.node[1], "op_type", "Frobnicate")),
        MODEL,
        "node 'act' (Frobnicate): expected an operator of opset 18, found none of this name",
    ),
    "unknown domain": Bad(
        changed(lambda m: setattr(m.graph.node[1], "domain", "acme")),
        MODEL,
        "node 'act' (Relu): expected a function or a known domain, found domain 'acme'",
    ),
    "dangling input": Bad(
        changed(lambda m: m.graph.node[1].input.__setitem__(0, "ghost")),
        MODEL,
        "node 'act' (Relu) reads ghost, which nothing defines",
    ),
    "dangling output": Bad(
        changed(lambda m: setattr(m.graph.output[0], "name", "ghost")),
        MODEL,
        "nothing defines the output ghost",
    ),
    "no outputs": Bad(
        changed(lambda m: m.graph.ClearField("output")), MODEL, "the graph has no outputs"
    ),
    "an unnamed node": Bad(
        changed(unnamed), MODEL, "an unnamed Relu that computes 'y': expected 1 input, found 2"
    ),
    "an input too many": Bad(
        changed(lambda m: m.graph.node[1].input.append("x")),
        MODEL,
        "node 'act' (Relu): expected 1 input, found 2",
    ),
    "bytes that do not fit the shape": Bad(
        changed(lambda m: m.graph.initializer[0].dims.__setitem__(0, 63)),
        MODEL,
        "tensor w: expected 16128 bytes for its shape, found 16384",
    ),
    "shapes that do not fit": Bad(
        with_weight(np.ones((63, 64), np.float32)), MODEL, "Node (mm) Op (MatMul)", ""
    ),
    "a tensor of 2**80 elements": Bad(changed(huge_tensor), MODEL, "tensor w: expected 48357"),
    "an input of 2**40 rows": Bad(
        changed(huge_input), MODEL, "'mm' (MatMul): its output 'h' of shape [1099511627776, 64]"
    ),
    "a result of 2**40 rows": Bad(changed(huge_result), MODEL, "'grow' (Expand): its output"),
    "NaN in a weight": Bad(poisoned(np.nan), MODEL, NOT_FINITE),
    "infinity in a weight": Bad(poisoned(np.inf), MODEL, NOT_FINITE),
    "an opset that is too new": Bad(
        changed(lambda m: setattr(m.opset_import[0], "version", 999)),
        UNSUPPORTED,
        "opset 999 is not supported",
        "update the onnx package",
    ),
    "data missing": Bad(external("w.data", None), MODEL, "'w.data' is missing", "beside the model"),
    "data short": Bad(
        external("w.data", 100), MODEL, "expected at least 16384 bytes, found 100", "again"
    ),
    "data of another length": Bad(
        external("w.data", 20000, 20000), MODEL, "expected 16384 bytes of external data"
    ),
    "data absolute": Bad(
        external("/etc/hostname", None), MODEL, "outside the model's folder", "beside"
    ),
    "data outside": Bad(outside, MODEL, "outside the model's folder", "beside the model"),
    "data behind a link": Bad(linked, MODEL, "outside the model's folder", "not a link"),
    "sample of other names": Bad(
        samples(z=X), CALIBRATION, "expected inputs ['x'], found ['z']", "missing: ['x']", WITH
    ),
    "sample of another type": Bad(
        samples(x=X.astype(np.int64)),
        CALIBRATION,
        "input 'x': expected type float32, found int64",
        "",
        WITH,
    ),
    "sample of another shape": Bad(
        samples(x=X[:, :9]), CALIBRATION, "expected 64 along axis 1, found shape (2, 9)", "", WITH
    ),
    "sample of another rank": Bad(
        samples(x=X[0]), CALIBRATION, "found (64,)", "", WITH
    ),
    "sample with NaN": Bad(samples(x=X * np.nan), CALIBRATION, "NaN or infinity", "", WITH),
    "sample that is no archive": Bad(
        sample_file(b"nonsense"), CALIBRATION, "no .npz file of plain arrays", "numpy.savez", WITH
    ),
    "sample that is empty": Bad(
        sample_file(b""), CALIBRATION, "no .npz file of plain arrays", "numpy.savez", WITH
    ),
    "sample that is cut short": Bad(
        sample_file(b"PK\x03\x04" + b"\0" * 50), CALIBRATION, "no .npz file", "numpy.savez", WITH
    ),
    "sample with pickles": Bad(pickled, CALIBRATION, "no .npz file", "numpy.savez", WITH),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    case.make(source)
    monkeypatch.chdir(source)
    result = CliRunner().invoke(
        cli, ["convert", "m.onnx", "-o", str(out / "q.onnx"), "--preset", "w8a8", *case.arguments]
    )
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert result.exit_code == case.code, lines
    assert lines[0].startswith("error: ")
    assert case.says in lines[0]
    assert [line for line in lines[1:] if not line.startswith("hint: ")] == []
    assert len(lines) <= 2
    assert case.hint in "".join(lines[1:])
    if case.code == MODEL:
        assert "m.onnx: " in lines[0]
        assert len(lines) == 2
    assert "Traceback" not in result.output
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.arguments])
def test_inspect_tells_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is broken in the file itself; what only a run can show is no error of inspect's."""
    CASES[name].make(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["inspect", "m.onnx"])
    assert result.exit_code in (0, CASES[name].code), result.stderr
    assert "Traceback" not in result.output
    if result.exit_code:
        assert CASES[name].says in result.stderr


def test_every_cut_of_a_model_is_told(tmp_path: Path) -> None:
    whole = proto().SerializeToString()
    (tmp_path / "out").mkdir()
    for size in (*range(0, 200, 7), *range(len(whole) - 200, len(whole), 7)):
        (tmp_path / "m.onnx").write_bytes(whole[:size])
        result = CliRunner().invoke(
            cli, ["convert", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "out" / "q.onnx")]
        )
        assert result.exit_code == MODEL, (size, result.stderr)
        assert result.stderr.startswith("error: ")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"z": X}, "expected inputs"),
        ({"x": X.astype(np.float64)}, "expected type float32"),
        ({"x": X[:, :3]}, "expected 64 along axis 1"),
    ],
)
def test_wrong_calibration_data(feeds: Any, message: str, tmp_path: Path) -> None:
    save(tmp_path, proto())
    for verify in ("fast", "off"):
        with pytest.raises(CalibrationError, match=message):
            convert(
                tmp_path / "m.onnx",
                tmp_path / "q.onnx",
                preset="w8a8",
                calibration=[feeds],
                verify=verify,  # type: ignore[arg-type]
            )
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("existing", ["q.onnx", "q.onnx.data"])
def test_an_output_that_exists_stays(existing: str, tmp_path: Path) -> None:
    save(tmp_path, proto())
    (tmp_path / existing).write_bytes(b"mine")
    result = CliRunner().invoke(
        cli, ["convert", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "q.onnx")]
    )
    assert result.exit_code == OUTPUT
    assert f"{existing} exists" in result.stderr
    assert "hint: pass --force" in result.stderr
    assert (tmp_path / existing).read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["m.onnx", existing])


@pytest.mark.parametrize("output", ["m.onnx", "link.onnx", "q.onnx", "other.onnx"])
def test_the_source_is_never_replaced(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as itself, nor through a link, nor as the file of its weights; --force or not."""
    model = proto()
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="q.onnx.data",
        size_threshold=0,
    )  # fmt: skip
    (tmp_path / "link.onnx").symlink_to("m.onnx")
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 3
    arguments = ["convert", "m.onnx", "-o", output, "--preset", "w8a8", "--force"]
    result = CliRunner().invoke(cli, arguments)
    if output == "other.onnx":
        assert result.exit_code == 0, result.stderr
        return
    assert result.exit_code == OUTPUT, result.stderr
    assert "is the model that is converted, or its weights" in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_name_that_no_onnx_file_has(tmp_path: Path) -> None:
    """Told before the model is even looked for."""
    out = tmp_path / "o.txt"
    result = CliRunner().invoke(cli, ["convert", str(tmp_path / "m.onnx"), "-o", str(out)])
    assert result.exit_code == OUTPUT
    assert "ends in .onnx" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    save(tmp_path, proto())
    result = CliRunner().invoke(
        cli, ["convert", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "no" / "q.onnx")]
    )
    assert result.exit_code == OUTPUT
    assert "does not exist" in result.stderr
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    save(tmp_path, proto())
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    result = CliRunner().invoke(
        cli, ["convert", str(tmp_path / "m.onnx"), "-o", str(out / "q.onnx")]
    )
    assert result.exit_code == OUTPUT
    assert "cannot be written" in result.stderr


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    """/proc refuses new files to root too."""
    if not Path("/proc/self").is_dir():
        pytest.skip("there is no /proc")
    absent = tmp_path / "absent.onnx"  # told before the model is even looked for
    result = CliRunner().invoke(cli, ["convert", str(absent), "-o", "/proc/self/q.onnx"])
    assert result.exit_code == OUTPUT, result.stderr
    assert "Traceback" not in result.output
    assert "free space" not in result.stderr


COMMAND = [sys.executable, "-m", "bitfold", "convert", "m.onnx", "-o", "out/q.onnx"]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model of some megabytes, so that writing it takes a while, and an empty folder."""
    save(tmp_path, proto(inner=64 * 1024))
    (tmp_path / "out").mkdir()
    return tmp_path


def test_a_full_disk(large: Path) -> None:
    """A limit on the size of files stands in for it: writes fail in the middle of the weights."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        [*COMMAND, "--preset", "w8a8", "--verify", "off"],
        cwd=large,
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert done.returncode == OUTPUT, done.stderr
    assert os.strerror(errno.EFBIG) in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((large / "out").iterdir())


@pytest.mark.parametrize(
    ("when", "name"),
    [
        ("sample inputs", "SIGINT"),
        ("quantize", "SIGINT"),
        ("writing weights", "SIGINT"),
        ("writing weights", "SIGTERM"),
        ("writing weights", "SIGHUP"),
    ],
)
def test_an_interrupted_run(when: str, name: str, large: Path) -> None:
    """Ctrl-C, or a signal to end, at a chosen moment: its exit code, one line, and no remains."""
    code = f"""
import os, signal, sys
# Whoever runs the tests in the background has had these ignored, which children inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from bitfold.frontend.cli import output
from bitfold.frontend.cli.main import main
inner = output.shown_progress
import contextlib
@contextlib.contextmanager
def shown(*arguments):
    with inner(*arguments) as progress:
        def watched(text, fraction=None):
            if text.startswith({when!r}):
                os.kill(os.getpid(), signal.{name})
            progress(text, fraction)
        yield watched
import importlib
importlib.import_module("bitfold.frontend.cli.convert").shown_progress = shown
sys.argv = ["bitfold", *{COMMAND[3:]!r}, "--preset", "w8a8", "--report", "report/of/it"]
main()
"""
    (large / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=large,
        env={**os.environ, "TMPDIR": str(large / "tmp")},
        capture_output=True,
        text=True,
    )
    number = signal.Signals[name]
    assert done.returncode == 128 + number, (done.returncode, done.stderr, done.stdout)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert done.stderr.strip().splitlines()[-1] == word
    assert "Traceback" not in done.stderr
    assert not list((large / "out").iterdir())
    assert not list((large / "tmp").glob("bitfold*"))
    # The report is there whole, where its time had come, or not at all.
    written = [path.name for path in (large / "report").rglob("*") if path.is_file()]
    assert sorted(written) == (["report.html", "report.json"] if when[0] == "w" else [])
    assert (large / "report").exists() == bool(written)


def test_a_failed_run_leaves_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    arguments = ["convert", "m.onnx", "-o", "q.onnx", "--report"]
    assert CliRunner().invoke(cli, [*arguments, "new/report"]).exit_code == MODEL
    save(tmp_path, proto())
    result = CliRunner().invoke(cli, [*arguments, "file/report"])
    assert result.exit_code == OUTPUT, result.stderr
    assert "cannot make the report's folder" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "m.onnx"]


@pytest.mark.parametrize(
    "arguments", [["passes"], ["passes", "--json"], ["inspect", "m.onnx"], ["--help"]]
)
def test_an_output_that_takes_nothing(arguments: list[str], tmp_path: Path) -> None:
    """A device that is always full stands in for a full disk under ``> list.txt``."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    save(tmp_path, proto())
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND[:3], *arguments], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == OUTPUT, done.stderr
    assert done.stderr.splitlines()[0] == f"error: cannot write: {os.strerror(errno.ENOSPC)}"
    assert "fault of bitfold" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_killed_run_leaves_a_whole_result_or_none(large: Path) -> None:
    """Where the process is killed outright, nothing of that name is a part of a result."""
    running = subprocess.Popen([*COMMAND, "--preset", "w8a8"], cwd=large, stderr=subprocess.PIPE)
    while running.poll() is None and not list((large / "out").iterdir()):
        time.sleep(0.01)
    running.kill()
    running.wait()
    done = (large / "out" / "q.onnx").exists()  # before it was killed
    assert done or running.returncode != 0
    if done:
        Session(large / "out" / "q.onnx")


def test_verify_names_the_model_that_is_broken(tmp_path: Path) -> None:
    save(tmp_path, proto())
    broken = proto()
    broken.graph.node[1].op_type = "Frobnicate"
    (tmp_path / "b.onnx").write_bytes(broken.SerializeToString())
    misfit = proto()
    misfit.graph.initializer[0].CopyFrom(numpy_helper.from_array(X[:, :63], "w"))
    (tmp_path / "c.onnx").write_bytes(misfit.SerializeToString())
    for name, says in (("b.onnx", "Frobnicate"), ("c.onnx", "Node (mm)")):
        for pair in (("m.onnx", name), (name, "m.onnx")):
            paths = [str(tmp_path / each) for each in pair]
            result = CliRunner().invoke(cli, ["verify", *paths])
            assert result.exit_code == MODEL, result.stderr
            assert result.stderr.startswith(f"error: {tmp_path / name}: ")
            assert says in result.stderr
