"""Types of files: how many made files get the label of what they were made as."""

from __future__ import annotations

from bitfold.frontend.tasks.made_files import made_files
from bitfold.frontend.tasks.task import Score, Setting
from bitfold.models.magika import LABELS_KEY, file_tokens
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.session import Session


class FileType:
    """The share of made files that get their label."""

    name = "file-type"
    summary = "made files labelled as what they are"

    def feeds(self, session: Session, setting: Setting) -> list[Feeds]:
        """The made files, one at a time."""
        name = _input_name(session)
        files = made_files()[: setting.limit]
        return [{name: file_tokens(content)[None]} for _, content in files]

    def score(self, session: Session, setting: Setting) -> Score:
        """The likeliest label of each file counts, however sure the model is of it."""
        labels = _labels(session)
        wanted = [label for label, _ in made_files()[: setting.limit]]
        right, sureness = 0, 0.0
        for index, feeds in enumerate(self.feeds(session, setting)):
            setting.progress("labelling", index / len(wanted))
            output = session.outputs[0].name
            scores = session.run(feeds, [output])[output][0]
            right += labels[int(scores.argmax())] == wanted[index]
            sureness += float(scores.max())
        details = {"right": float(right), "mean score": sureness / len(wanted)}
        return Score(
            "files labelled right", right / len(wanted), True, len(wanted), details, share=True
        )


def _labels(session: Session) -> list[str]:
    if LABELS_KEY not in session.metadata:
        raise UnsupportedError(
            f"{session.path.name} does not label files: its metadata has no {LABELS_KEY!r}",
            "choose another task",
        )
    return session.metadata[LABELS_KEY].split("\n")


def _input_name(session: Session) -> str:
    _labels(session)
    if len(session.inputs) != 1 or len(session.inputs[0].shape) != 2:
        raise UnsupportedError(
            f"{session.path.name} does not label files: expected one input of rank 2"
        )
    return session.inputs[0].name
