"""Every pass that recipes can call by name: to add one, import it and add a line to the list."""

from __future__ import annotations

from bitfold.passes.advise.advise import Advise
from bitfold.passes.allocate.allocate import Allocate
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.core.base import Pass
from bitfold.passes.fold.fold_batch_norm import FoldBatchNorm
from bitfold.passes.fold.fold_norm_gain import FoldNormGain
from bitfold.passes.fuse.fuse_swiglu import FuseSwiGLU
from bitfold.passes.fuse.merge_siblings import MergeSiblings
from bitfold.passes.lower.fuse_attention import FuseAttention
from bitfold.passes.lower.fuse_skip_norm import FuseSkipNorm
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.quantize.quantize_attention import QuantizeAttention
from bitfold.passes.quantize.static_inputs import StaticInputs
from bitfold.passes.transform.awq_scale import AwqScale
from bitfold.passes.transform.equalize import Equalize
from bitfold.passes.transform.fp_bias import FpBias
from bitfold.passes.transform.hada_conv import HadaConv
from bitfold.passes.transform.ln_to_rms import LnToRms
from bitfold.passes.transform.permute import Permute
from bitfold.passes.transform.reparam_ln import ReparamLn
from bitfold.passes.transform.rotate import Rotate
from bitfold.passes.transform.rotate_learned import RotateLearned
from bitfold.passes.transform.scale_pairs import ScalePairs
from bitfold.passes.transform.smooth import Smooth
from bitfold.passes.transform.split import Split

PASSES: list[type[Pass]] = [
    Canonicalize,
    FoldBatchNorm,
    FoldNormGain,
    LnToRms,
    MergeSiblings,
    FuseSwiGLU,
    Rotate,
    RotateLearned,
    Smooth,
    AwqScale,
    ScalePairs,
    Equalize,
    ReparamLn,
    FpBias,
    Split,
    Permute,
    HadaConv,
    Advise,
    Allocate,
    QuantizeAttention,
    Quantize,
    StaticInputs,
    FuseAttention,
    FuseSkipNorm,
    Lower,
]


def find(name: str) -> type[Pass] | None:
    """The pass called ``name``, or None."""
    return next((cls for cls in PASSES if cls.name == name), None)
