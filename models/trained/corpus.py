"""The text that the trained model learns from, and how it is split.

Source: ``pydoc_data.topics``, the language reference as the ``help()`` function shows it, part of
CPython's standard library (Python Software Foundation License, see ``LICENSE.txt`` beside this
file). The topics overlap (``while`` is also inside ``compound``), so a paragraph that was seen
before is dropped: otherwise the held-out part would repeat what was trained on.
"""

from __future__ import annotations

from pydoc_data.topics import topics

EVAL_BYTES = 64 * 1024
"""Size of the held-out end of the text, scored by tests and never trained on."""
VALIDATION_BYTES = 12 * 1024
"""Size of the part before it, which the training script watches."""
_REPEATABLE = 24  # shorter paragraphs ("See also:") are part of the language, not copies


def unique_text() -> str:
    """Returns all topics of the running Python, in order of name, each paragraph once."""
    seen: set[str] = set()
    kept: list[str] = []
    for name in sorted(topics):
        for paragraph in topics[name].strip().split("\n\n"):
            key = " ".join(paragraph.split())
            if len(key) >= _REPEATABLE and key in seen:
                continue
            seen.add(key)
            kept.append(paragraph.rstrip())
    return "\n\n".join(kept) + "\n"


def split(text: str) -> tuple[str, str, str]:
    """Splits a text at paragraph ends into (training, validation, held-out) parts.

    The held-out part is the end, of at most `EVAL_BYTES` UTF-8 bytes.
    """
    rest, held_out = _cut_end(text, EVAL_BYTES)
    training, validation = _cut_end(rest, VALIDATION_BYTES)
    return training, validation, held_out


def _cut_end(text: str, size: int) -> tuple[str, str]:
    data = text.encode()
    tail = data[max(0, len(data) - size) :].decode(errors="ignore")
    start = len(text) - len(tail)
    start = text.index("\n\n", start) + 2 if start else 0
    return text[:start], text[start:]
