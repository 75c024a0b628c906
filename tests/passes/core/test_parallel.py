"""Pieces of work come back in order, whoever does them, and so do their errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info

from bitfold.passes.core.parallel import Engine
from bitfold.runtime.errors import ModelError, UnsupportedError

ENGINES = [Engine(), Engine(workers=1), Engine(workers=3), Engine("loky", 2)]


@pytest.fixture(params=ENGINES, ids=lambda engine: f"{engine.name} {engine.workers}")
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.param
    if found.name == "loky":
        pytest.importorskip("joblib")
    return found


@pytest.mark.parametrize("count", [0, 1, 2, 150])
def test_in_order(engine: Engine, count: int) -> None:
    found = list(engine.run(lambda item: item * item, iter(range(count))))
    assert found == [item * item for item in range(count)]


def test_errors(engine: Engine) -> None:
    def work(item: int) -> int:
        if item == 1:
            raise ModelError("it is broken", "mend it")
        return item

    with pytest.raises(ModelError, match="it is broken") as caught:
        list(engine.run(work, range(3)))
    assert caught.value.hint == "mend it"


def test_each_piece_has_one_core(engine: Engine) -> None:
    def threads(item: int) -> set[int]:
        import numpy  # noqa: F401 - another process finds its library then

        return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

    before = threads(0)
    assert list(engine.run(threads, range(3))) == [{1}] * 3
    assert threads(0) == before


def test_results_come_as_soon_as_they_can() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            asked.append(item)
            yield item

    found = Engine(workers=4).run(abs, items())
    assert next(found) == 0
    assert len(asked) <= 6
    found.close()


def test_an_engine_that_is_not_there() -> None:
    pytest.importorskip("joblib")
    with pytest.raises(UnsupportedError, match="cannot use the engine 'steam'"):
        list(Engine("steam").run(abs, range(3)))
    with pytest.raises(UnsupportedError, match="expected a number of workers"):
        Engine(workers=-1)


def test_joblib_is_an_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "joblib", None)
    with pytest.raises(UnsupportedError, match="needs joblib") as caught:
        list(Engine("loky").run(abs, range(3)))
    assert "bitfold[cluster]" in caught.value.hint
