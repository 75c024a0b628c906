"""What each target can express: the data, and the reasons where it cannot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Capability:
    """What a target has operators for.

    Attributes:
        widths: bits of the integers that weights are stored as; others take the next wider.
        blocks: sizes of the blocks of inputs that share a weight scale in a low-bit matmul;
            None where any will do.
        rounding_blocks: for each width, the blocks at which the low-bit matmul rounds its input
            to int8 on the fly, a scale for each block; None where any will do.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...] | None = None
    rounding_blocks: dict[int, tuple[int, ...]] | None = None


CAPABILITIES: dict[str, Capability] = {
    # INT2, INT4 and INT8 of DequantizeLinear; rounding is written out.
    "portable": Capability((2, 4, 8)),
    # com.microsoft MatMulNBits of ORT 1.31.  At 2 bits it rounds inputs in the middle sizes only,
    # and leaves them float in the others, whatever accuracy_level says.
    "ort": Capability(
        (2, 4, 8),
        (16, 32, 64, 128, 256),
        {
            2: (32, 64, 128),
            4: (16, 32, 64, 128, 256),
            8: (16, 32, 64, 128, 256),
        },
    ),
}


def stored_width(target: str, width: int) -> int:
    """Bits that integers of ``width`` bits are stored with."""
    return min(each for each in CAPABILITIES[target].widths if each >= width)


def matmul_block(k: int, group_size: int) -> int | str:
    """The block of MatMulNBits for weights with float inputs, or why there is none.

    Scales are repeated where the block is shorter than the group.

    Args:
        k: input channels.
        group_size: input channels a weight scale.
    """
    blocks = CAPABILITIES["ort"].blocks or ()
    if group_size >= k:
        return next((block for block in blocks if block >= k), blocks[-1])
    fitting = [block for block in blocks if group_size % block == 0]
    if fitting:
        return fitting[-1]
    return f"a weight scale for each {group_size} inputs: expected a multiple of {blocks[0]}"


def rounding_block(width: int, k: int, group_size: int, act_group: int) -> int | str:
    """The block of MatMulNBits that rounds inputs as the scheme says, or why there is none.

    Args:
        width: bits that the weights are stored with.
        k: input channels.
        group_size: input channels a weight scale.
        act_group: input channels an input scale.
    """
    blocks = (CAPABILITIES["ort"].rounding_blocks or {})[width]
    if act_group >= k:
        block = next((block for block in blocks if block >= k), None)
    else:
        block = act_group if act_group in blocks else None
    if block is None:
        span = f"each {act_group} inputs" if act_group < k else f"each row of {k} inputs"
        return (
            f"int8 inputs with a scale for {span}: at {width} bits MatMulNBits has one for each "
            f"{', '.join(map(str, blocks))} inputs"
        )
    if group_size < k and group_size % block:
        return (
            f"a weight scale for each {group_size} inputs and an input scale for each {act_group}: "
            "MatMulNBits has one size for both"
        )
    return block


HINT = (
    "use quantize{group=32|64|128 act_granularity=group}, quantize{acts=none}, exclude the site, "
    "or ask for standard float operators with lower{emulate=true}"
)
"""What to do about a scheme that target ``ort`` cannot run."""
