"""What target ``ort``'s low-bit matmul can express, and the reasons where it cannot."""

from __future__ import annotations

BLOCKS = (16, 32, 64, 128, 256)
"""Inputs that may share a weight scale in com.microsoft MatMulNBits of ORT 1.31."""

ROUNDING_BLOCKS = {2: (32, 64, 128), 4: BLOCKS, 8: BLOCKS}
"""By width, the blocks at which it rounds its input to int8 on the fly, a scale for each block.

At 2 bits it leaves inputs float in the other sizes, whatever accuracy_level says.
"""


def matmul_block(k: int, group_size: int) -> int | str:
    """The block of MatMulNBits for weights with float inputs, or why there is none.

    Scales are repeated where the block is shorter than the group.

    Args:
        k: input channels.
        group_size: input channels a weight scale.
    """
    if group_size >= k:
        return next((block for block in BLOCKS if block >= k), BLOCKS[-1])
    fitting = [block for block in BLOCKS if group_size % block == 0]
    if fitting:
        return fitting[-1]
    return f"a weight scale for each {group_size} inputs: expected a multiple of {BLOCKS[0]}"


def rounding_block(width: int, k: int, group_size: int, act_group: int) -> int | str:
    """The block of MatMulNBits that rounds inputs as the scheme says, or why there is none.

    Args:
        width: bits that the weights are stored with.
        k: input channels.
        group_size: input channels a weight scale.
        act_group: input channels an input scale.
    """
    blocks = ROUNDING_BLOCKS[width]
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
