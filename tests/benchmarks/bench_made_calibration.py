"""What GPTQ on inputs made of nothing but the model loses, beside real text.

Run from anywhere::

    python tests/benchmarks/bench_made_calibration.py [--bits int4 ...]

On the small trained language model that comes with bitfold: mean KL to its float form over a text
of CPython's documentation, inputs in float, embeddings of 8 bits.  All calibration texts have as
many tokens: real ones of the same documentation, those that the model writes, and random tokens.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from bitfold.frontend.convert import convert  # noqa: E402
from bitfold.frontend.importers import import_model  # noqa: E402
from bitfold.frontend.machine import describe_machine  # noqa: E402
from bitfold.frontend.self_text import self_text  # noqa: E402
from bitfold.frontend.sources import find_model  # noqa: E402
from bitfold.frontend.text_samples import causal_feeds  # noqa: E402
from bitfold.frontend.text_tokenizer import TextTokenizer  # noqa: E402
from bitfold.models.trained import calibration_text, eval_text  # noqa: E402
from bitfold.passes.core.context import Feeds  # noqa: E402
from bitfold.runtime.session import Session  # noqa: E402

TEXTS, LENGTH, TESTED = 32, 128, 16


def log_probabilities(path: Path, feeds: list[Feeds]) -> np.ndarray:
    """float64 [tokens, vocabulary]."""
    session = Session(path)
    return np.concatenate([log_softmax(session.run(each)["logits"][0], -1) for each in feeds])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", action="append", choices=("int4", "int3", "int2"))
    options = parser.parse_args()
    path = find_model("trained")
    model, tokenizer = import_model(path), TextTokenizer(path.parent)

    def cut(ids: np.ndarray, most: int) -> list[Feeds]:
        count = min(most, ids.size // LENGTH)
        rows = ids.reshape(-1)[: count * LENGTH].reshape(count, 1, LENGTH)
        return [causal_feeds(model, row, {}) for row in rows]

    own = self_text(path, texts=TEXTS, length=LENGTH)
    session = Session(path)
    vocabulary = session.run(cut(own, 1)[0])["logits"].shape[-1]
    real = cut(np.array(tokenizer.encode(calibration_text())), TEXTS)
    noise = np.random.default_rng(0).integers(0, vocabulary, own.shape)
    calibrations = {
        "rtn": ("rtn", real),
        "gptq, real text": ("gptq", real),
        "gptq, self": ("gptq", cut(own, TEXTS)),
        "gptq, random": ("gptq", cut(noise, TEXTS)),
    }
    tested = cut(np.array(tokenizer.encode(eval_text())), TESTED)
    exact = log_probabilities(path, tested)
    print(*describe_machine().values())
    print(f"{len(real)} texts of {LENGTH} tokens; measured on {len(exact)} tokens")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "out.onnx"
        for bits in options.bits or ("int4", "int3", "int2"):
            for label, (method, feeds) in calibrations.items():
                recipe = f"weights={bits} embeddings=int8 acts=none method={method}"
                recipe = f"canonicalize, quantize{{{recipe}}}, lower"
                convert(path, file, passes=recipe, calibration=feeds, verify="off", force=True)
                found = log_probabilities(file, tested)
                kl = float((np.exp(exact) * (exact - found)).sum(-1).mean())
                print(f"{bits} {label:16} KL {kl:.4f}", flush=True)


if __name__ == "__main__":
    main()
