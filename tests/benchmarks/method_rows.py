"""The methods that ``bench_methods.py`` compares: how each is asked for, and its paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bitfold.passes.presets import FOLD, FUSE, ROTATED

PLAIN = f"{FOLD}, {FUSE}"
ENCODER = "whisper-tiny.en-encoder"
"""Where attention is neither causal nor cached: its probabilities can be rounded."""

NEAREST = ("binary", "int2", "int3", "int4", "int5", "int6", "int8")
"""Formats that rounding to nearest is interpolated between; the first has no zero points."""

Kind = Literal["weights", "inputs", "attention"]


@dataclass(frozen=True)
class Row:
    """A method at one setting.

    Attributes:
        name: of the row.
        kind: what it rounds.
        options: of ``quantize``; empty to leave that out.
        paper: where it is from.
        before: the passes ahead of ``quantize``, and of ``lower``.
        after: those behind it.
        against: the row that it is compared with; empty for rounding to nearest at as many stored
            bits, interpolated between widths.
        why: why it does not beat that, where it does not.
        model: what it is measured on, if not on the model of all others.
        layers_only: measure no whole model.
    """

    name: str
    kind: Kind
    options: str
    paper: str
    before: str = PLAIN
    after: str = ""
    against: str = ""
    why: str = ""
    model: str = ""
    layers_only: bool = False

    @property
    def quantize(self) -> str:
        """The passes that round: ``quantize``, and what is behind it."""
        rest = {"weights": "acts=none", "inputs": "weights=int8", "attention": ""}[self.kind]
        given = {each.split("=")[0] for each in self.options.split()}
        rest = " ".join(each for each in rest.split() if each.split("=")[0] not in given)
        pass_ = f"quantize{{embeddings=int8 {rest} {self.options}}}" if self.options else ""
        return ", ".join(filter(None, [pass_, self.after]))

    @property
    def recipe(self) -> str:
        """The whole recipe."""
        return ", ".join(filter(None, [self.before, self.quantize, "lower"]))

    @property
    def parts(self) -> tuple[str, ...]:
        """What it is measured on: ``layers``, where these tell it all it needs; ``model``."""
        alone = self.before == PLAIN and "tokens=" not in self.options
        layers = ("layers",) if self.quantize and alone else ()
        return layers + (() if self.layers_only else ("model",))

    @property
    def zero_points(self) -> bool:
        """Whether its weights have zero points."""
        without = ("symmetric=true", "method=pvq")
        return "weights=int" in self.options and not any(each in self.options for each in without)

    @property
    def nearest(self) -> bool:
        """Whether it is plain rounding to nearest, which others are compared with."""
        rest = set(self.options.split()) - {"symmetric=true"}
        even = {f"weights={number}" for number in NEAREST}
        return self.kind == "weights" and self.before == PLAIN and rest <= even

    @property
    def calibrated(self) -> bool:
        """Whether it takes statistics from inputs."""
        return any(each in self.recipe for each in ("method=", "rank=", "static-inputs"))


def _weights(name: str, options: str, paper: str, why: str = "", **more: str) -> Row:
    return Row(name, "weights", options, paper, why=why, **more)  # type: ignore[arg-type]


def _ranges(name: str, paper: str, why: str = "") -> Row:
    against = "int4, a scale per channel, minmax"
    options = f"weights=int4 group=0 ranges={name}"
    label = f"int4, a scale per channel, {name}"
    return Row(label, "weights", options, paper, against=against, why=why, layers_only=True)


def _inputs(name: str, options: str, paper: str, against: str = "", **more: str) -> Row:
    return Row(name, "inputs", options, paper, against=against, **more)  # type: ignore[arg-type]


def _attention(name: str, options: str, paper: str, against: str, model: str = "") -> Row:
    before = f"{FOLD}, quantize-attention{{{options}}}, {FUSE}"
    return Row(name, "attention", "", paper, before, against=against, model=model)


SURVEY = "Survey of Quantization Methods, 2103.13630"
GPTQ = "GPTQ, 2210.17323"
NUPES = "NUPES, 2308.05600"
SQUEEZE = "k-means levels: SqueezeLLM, 2306.07629"
MAX = "Max, 1960; Lloyd"
MX = "OCP Microscaling v1.0; LLM-FP4, 2310.16836"
EVEN_WEIGHTS = "the weights come from a file of evenly spaced 4-bit levels"

ROWS: tuple[Row, ...] = (
    _weights("rtn int4", "weights=int4", SURVEY),
    _weights("rtn int3", "weights=int3", SURVEY),
    _weights("rtn int2", "weights=int2", SURVEY),
    _weights("rtn int4, no zero points", "weights=int4 symmetric=true", SURVEY),
    _weights("rtn int3, no zero points", "weights=int3 symmetric=true", SURVEY),
    _weights("rtn int2, no zero points", "weights=int2 symmetric=true", SURVEY),
    _weights("gptq int3", "weights=int3 method=gptq", GPTQ),
    _weights(
        "rsq: gptq int3, by attention",
        "weights=int3 method=gptq tokens=attention",
        "RSQ, 2503.01820",
    ),
    _weights(
        "rsq: gptq int3, first tokens", "weights=int3 method=gptq tokens=first", "RSQ, 2503.01820"
    ),
    _weights("gptq int3, by uses", "weights=int3 method=gptq tokens=uses", "after RSQ, 2503.01820"),
    _weights(
        "gptq int3, by inverse norm",
        "weights=int3 method=gptq tokens=inverse-norm",
        f"{GPTQ}; what a norm divides the error by",
    ),
    _weights("ada-dim int3", "weights=int3 method=ada-dim", "AdaDim, 2309.15531"),
    _weights("learned3, gptq", "weights=learned3 method=gptq", f"{SQUEEZE}; {GPTQ}"),
    _weights("gptq int3, e4m3 scales", "weights=int3 symmetric=true scales=e4m3 method=gptq", GPTQ),
    _weights("learned3", "weights=learned3", SQUEEZE),
    _weights("power3", "weights=power3", NUPES),
    _weights("power3, gptq", "weights=power3 method=gptq", f"{NUPES}; {GPTQ}"),
    _weights("gauss3", "weights=gauss3", MAX),
    _weights(
        "quest: odd3, gauss ranges",
        "weights=odd3 ranges=gauss",
        "QuEST, 2502.05003",
        "ranges in closed form are for rotated, normally distributed weights",
    ),
    _weights(
        "quest, rotated",
        "weights=odd3 ranges=gauss",
        "QuEST, 2502.05003",
        before=ROTATED,
    ),
    _weights(
        "pvq int3",
        "weights=int3 method=pvq",
        "PVQ for LLMs, 2410.16926",
        "its points are stored as plain integers: the pyramid then only forbids codes",
    ),
    _weights("rtn int3 + lorc, rank 16", "weights=int3 rank=16", "ZeroQuant-V2, 2303.08302"),
    _weights(
        "gptq int3 + lorc, rank 16", "weights=int3 rank=16 method=gptq", "ZeroQuant-V2, 2303.08302"
    ),
    _weights(
        "gptq int3 + svdquant, rank 16",
        "weights=int3 rank=16 low_rank=weight method=gptq",
        "SVDQuant, 2411.05007",
    ),
    _weights(
        "bit balance: quinary",
        "weights=quinary",
        "ABQ-LLM, 2408.08554",
        "five levels, stored in three bits as int3's eight",
    ),
    _weights(
        "odd2",
        "weights=odd2",
        "QuEST, 2502.05003",
        "no level at 0: better for normally distributed values, worse for long tails",
    ),
    _weights("gauss2, gptq", "weights=gauss2 method=gptq", f"{MAX}; {GPTQ}"),
    _weights("gptq int2", "weights=int2 method=gptq", GPTQ),
    _weights("gptq int2, by uses", "weights=int2 method=gptq tokens=uses", "after RSQ, 2503.01820"),
    _weights("dual-binary", "weights=binary group=64 method=dual-binary", "DB-LLM, 2402.11960"),
    _weights("pb, 5% salient", "weights=binary group=128 method=pb", "PB-LLM, 2310.00034"),
    _weights(
        "ternary",
        "weights=ternary",
        "BitNet b1.58, 2402.17764",
        "three levels, stored in two bits as int2's four; meant for training",
    ),
    _weights("ternary, gptq", "weights=ternary method=gptq", f"BitNet b1.58; {GPTQ}"),
    _weights("binary", "weights=binary", "BiBench, 2301.11233"),
    _weights("binary, gptq", "weights=binary method=gptq", f"BiBench; {GPTQ}"),
    _weights("nf4", "weights=nf4", "QLoRA, 2305.14314", EVEN_WEIGHTS),
    _weights("fp4", "weights=fp4", "LLM-FP4, 2310.16836", EVEN_WEIGHTS),
    _weights("mxfp4", "weights=fp4 scales=e8m0", MX, EVEN_WEIGHTS),
    _weights("nvfp4", "weights=fp4 group=16 scales=e4m3", "NVFP4", EVEN_WEIGHTS),
    _weights("mxfp6 (e2m3)", "weights=fp6_e2m3 scales=e8m0", MX, EVEN_WEIGHTS),
    _weights("gptq int3, parallel", "weights=int3 method=gptq sequential=false", GPTQ),
    _inputs("W8A8, a scale per group", "acts=int8", SURVEY),
    _inputs(
        "W8A8, a scale per token",
        "acts=int8 act_granularity=token",
        SURVEY,
        "W8A8, a scale per group",
    ),
    *(
        _inputs(
            f"W8A8, static, {clip}",
            "acts=int8 act_granularity=token",
            SURVEY,
            "W8A8, a scale per token",
            after=f"static-inputs{{clip={clip}}}",
        )
        for clip in ("minmax", "percentile", "mse")
    ),
    _inputs("W8A4, a scale per group", "acts=int4", SURVEY),
    _inputs(
        "W8A4, a scale per token",
        "acts=int4 act_granularity=token",
        SURVEY,
        "W8A4, a scale per group",
    ),
    _inputs(
        "W8A4, a scale per token, rotated",
        "acts=int4 act_granularity=token",
        "QuaRot, 2404.00456",
        "W8A4, a scale per token",
        before=ROTATED,
    ),
    _inputs("W4A4", "weights=int4 acts=int4", SURVEY),
    _inputs(
        "W4A4 + svdquant, rank 32",
        "weights=int4 acts=int4 rank=32 low_rank=weight",
        "SVDQuant, 2411.05007",
        "W4A4",
    ),
    _attention("kv 8 bits", "kv=8", "FireQ, 2505.20839", ""),
    _attention("kv 4 bits", "kv=4", "OSTQuant, 2501.13987; FireQ", "kv 8 bits"),
    _attention("probabilities uniform, 4 bits", "probabilities=uniform kv=0", SURVEY, "", ENCODER),
    *(
        _attention(
            f"probabilities {levels}",
            f"probabilities={levels} kv=0",
            paper,
            "probabilities uniform, 4 bits",
            ENCODER,
        )
        for levels, paper in {
            "log2": "DGQ, 2501.04304",
            "log_sqrt2": "RepQuant, 2402.05628",
            "binary": "BiViT, 2211.07091",
        }.items()
    ),
    _ranges("minmax", SURVEY),
    _ranges("percentile", SURVEY),
    _ranges("entropy", "Wu et al., 2004.09602"),
    _ranges("mse", SURVEY),
    _weights("adaround int3", "weights=int3 method=adaround", "AdaRound, 2004.10568"),
    _weights("adaquant int3", "weights=int3 method=adaquant", "AdaQuant, 2006.10518"),
)
"""What is measured first comes first; long ones are at the end."""
