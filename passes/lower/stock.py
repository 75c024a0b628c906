"""Lower to stock operators: site by site the operators of ``ort``, or the standard ones."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, find_sites
from bitfold.passes.core.context import Context
from bitfold.passes.lower.neutral import weight_of
from bitfold.passes.lower.ort import OrtLowering, is_pointwise, ort_block
from bitfold.passes.lower.portable import PortableLowering
from bitfold.passes.lower.targets import HINT
from bitfold.runtime.errors import UnsupportedError

EMULATED = ", emulated: the target has no operator for the scheme"
"""What the report says of a site that only ``emulate`` let through."""


def lower_to_stock(
    model: ir.Model,
    context: Context,
    target: str,
    emulate: bool,
    globs: tuple[str, ...] | None = None,
) -> bool:
    """Rewrite the quantized sites with operators that stock runtimes have.

    Args:
        target: ``ort`` or ``portable``.
        emulate: let sites through that ``ort`` has no operator for.
        globs: the sites to rewrite; all of them by default.

    Returns:
        Whether there was any.

    Raises:
        UnsupportedError: ``ort`` has no operator for a site, and ``emulate`` is off; or a weight's
            levels are no integers.
    """
    by_source: dict[ir.Value, list[Site]] = {}
    for site in find_sites(model):
        if site.quantized is not None and (globs is None or site.matches(globs)):
            by_source.setdefault(site.source, []).append(site)
    _expect_integers(by_source, target)
    blocks: dict[ir.Node, int | str] = {}
    if target == "ort":
        every = [site for sites in by_source.values() for site in sites]
        sites = [site for site in every if site.conv is None]
        blocks = {site.node: ort_block(site) for site in sites}
        if not emulate:
            _refuse(
                [(site.name, why) for site in sites if isinstance(why := blocks[site.node], str)],
                len(sites),
            )
        # Every scheme of a convolution has DequantizeLinear and Conv; some have what is faster.
        pixels = {site.node: ort_block(site) for site in every if is_pointwise(site)}
        blocks |= {node: block for node, block in pixels.items() if isinstance(block, int)}
    stock, portable = OrtLowering(model, context), PortableLowering(model, context)
    for done, (source, sites) in enumerate(by_source.items()):
        context.progress(f"storing {source.name}", done / len(by_source))
        low = [site for site in sites if isinstance(blocks.get(site.node), int)]
        if low:
            stock.lower(low, [int(blocks[site.node]) for site in low])
        rest = [site for site in sites if site not in low]
        if rest:
            emulated = any(site.node in blocks for site in rest)
            portable.lower(rest, EMULATED if emulated else "")
    return bool(by_source)


def _expect_integers(by_source: dict[ir.Value, list[Site]], target: str) -> None:
    """Refuse weights whose levels are no integers: stock runtimes store them as these."""
    floats = [sites[0] for sites in by_source.values() if not weight_of(sites[0]).integral]
    if floats:
        raise UnsupportedError(
            f"target {target} stores weights as integers, and {len(floats)} of {len(by_source)} "
            f"weights have levels that are none; the first is that of {floats[0].name!r}",
            "use the target native, or quantize{weights=int8|fp6_e2m3|fp4|nf4|pot4|apot5}",
        )


def _refuse(reasons: list[tuple[str, str]], total: int) -> None:
    """Raise where there is a reason to."""
    if reasons:
        site, why = reasons[0]
        raise UnsupportedError(
            f"target ort has no operator for {len(reasons)} of {total} sites; the first is "
            f"{site!r}, with {why}",
            HINT,
        )
