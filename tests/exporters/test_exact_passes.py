"""Exact passes are exact on the catalogue's models as torch's two exporters write them.

They are fetched.  Skipped without torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import pytest
from support.exact_passes import RECIPES, canonical, changed_by, run_exact, samples_of
from support.real_models import SHORT

from bitfold.frontend.importers import import_model
from bitfold.passes.core.context import Context, Feeds

torch = pytest.importorskip("torch")

from exporters.checks import authored_model  # noqa: E402
from exporters.export import EXPORTERS  # noqa: E402
from exporters.exported import export_real  # noqa: E402

pytestmark = pytest.mark.slow

NAMES = ["efficientnet-lite0", "all-minilm-l6-v2"]
NAMES += ["whisper-tiny.en-encoder", "whisper-tiny.en-decoder"]
CASES = [(name, exporter) for name in NAMES[: 1 if SHORT else None] for exporter in EXPORTERS]

Prepared = tuple[ir.Model, Sequence[Feeds]]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """An exported model, canonicalized, and the samples of the catalogue's own."""
    name, exporter = request.param
    authored = authored_model(name)  # skips what cannot be fetched
    samples = samples_of(authored, import_model(authored))
    path = export_real(name, exporter, tmp_path_factory.mktemp("exported") / "model.onnx")
    return canonical(path, samples)


@pytest.mark.parametrize("recipe", ["all"] if SHORT else list(RECIPES))
def test_outputs_stay(prepared: Prepared, recipe: str) -> None:
    model, samples = prepared
    with Context(samples) as context:
        _, report = run_exact(model, RECIPES[recipe], context)
    assert changed_by(report) or recipe != "all"
