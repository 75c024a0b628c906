"""The torch modules that are exported, one file a family; the tests import none of them."""

from . import bert, convolutional, experts, gpt2, llama, recurrent, t5, vision, whisper
from .spec import Spec

SPECS: tuple[Spec, ...] = (
    *bert.SPECS,
    *whisper.SPECS,
    *gpt2.SPECS,
    *t5.SPECS,
    *llama.SPECS,
    *vision.SPECS,
    *convolutional.SPECS,
    *recurrent.SPECS,
    *experts.SPECS,
)
