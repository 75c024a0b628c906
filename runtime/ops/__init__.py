"""The operators of the ``bitfold`` domain: their schemas and stock-ONNX function bodies.

Every operator here has a kernel in ``runtime/cpp/ops`` and an oracle in
``runtime/reference``.  All three follow this specification.

``LowBitMatMul`` (version 1) multiplies float rows by a packed low-bit weight W[N, K]::

    Y[m, n] = residual[m, n] + activation(bias[n] + low_rank[m, n] + sum over groups g of
              s_w[n, g] * s_a[m, g] * sum over k in g of (t[c[n, k]] - z[n, g]) * q[m, k])

====  =============  =====================  =================================================
 in   name           type and shape         meaning
====  =============  =====================  =================================================
 0    X              f32 [..., K]
 1    packed         u8  [packed_size]      codes c, in a layout of ``runtime/layouts``
 2    scales         [T, G, 16]             s_w, one per output channel and group; see below
 3    zero_points    i8  [T, G, 16]         z; optional, 0 when absent
 4    table          i8 or f32 [2**bits]    t; optional, ``t[c] = c - 2**(bits-1)`` when absent
 5    bias           f32 [N]                optional
 6    residual       f32, the shape of Y    optional
 7    norm_gain      f32 [K]                optional: X is normalized first
 8    hadamard       i8  [m, m], constant   optional: base of the Hadamard transform of X
 9    act_scale      f32 [1]                optional: the one scale of all activations
10    low_rank_down  f16 or f32 [R, K]      D; optional, R from 1 to 512
11    low_rank_up    f16 or f32 [N, R]      U; there with D, and of its type
12    input_scales   f32 [J, K]             optional: X is scaled, for each block of outputs
13    column_norms   f32 [K]                optional: columns are skipped
====  =============  =====================  =================================================

Attributes (ints): ``N``, ``K``, ``bits`` (1..8), ``group_size`` (input channels a group: a
multiple of 16, or K for one group a row; the last group may be shorter; ``G = ceil(K /
group_size)``), ``layout`` (3 or 4); (strings): ``acts`` (``int8``, ``int4``, ``int3``, ``int2``,
``int1`` or ``none``), ``activation`` (``none``, ``swiglu``, ``relu``, ``gelu`` or ``gelu_tanh``);
(int) ``act_group_size`` (K for one scale a row, or ``group_size``); (list of ints, optional)
``splits``.

The type of ``scales`` says what they are: f16, bf16 and f32 themselves; u8 exponents, a code e
standing for ``2**(e - 127)`` (OCP's E8M0, which operators cannot be given as such; 255, its NaN,
means nothing); and f8e4m3fn numbers that the attribute ``scale_factor`` (float, 1e-30 to 1e30, 1
where it is missing) multiplies in f32, whose NaN mean nothing.  Other types take no
``scale_factor``.

With ``layout`` 3 the codes are packed as in ``runtime/layouts/tiles``, with 4 as in
``runtime/layouts/masked``: weights whose mask bit is not set are 0, whatever their group's zero
point.  That takes zero points which are levels (from ``-2**(bits-1)`` to ``2**(bits-1) - 1``, or
any with an i8 table); an f32 table must then have a level of 0, and there are no zero points.

An f32 table is for levels that are no integers of 8 bits (fp8, say).  It takes ``acts=none``.

Before all else, X's rows go through the prologue.  With ``norm_gain`` and the attribute ``epsilon``
(float) they become ``x / sqrt(mean(x**2) + epsilon) * norm_gain``, a mean over K; then, with the
attribute ``hadamard_size`` (int, a divisor of K), what ``Hadamard`` below makes of them with that
size and the base ``hadamard``.  Both in f32, sums in any order.  With ``column_norms`` and the
attribute ``keep`` (float, above 0 and up to 1; not with ``acts=int1``), a row's runs of 16 inputs
are scored by their sum of ``|x_k| * column_norms[k]`` in f32; the ``ceil(keep * ceil(K / 16))``
runs with the largest scores stay, of equal ones those of lower index, and the others become zeros
(WINA, arXiv 2505.19427); a row with a NaN score stays whole.  Where there is one row, kernels need
not read the weights of runs that are zero: AVX-512's take 0.41 to 0.69 of the dense time at a keep
of 0.25, but at 0.5 they gain nothing on weights from memory.  What follows sees the new rows.

With ``input_scales`` and the attribute ``n_group_size`` (int: N, or a multiple of 16; N with
``swiglu``) each block of that many outputs, the last perhaps of fewer, sees the new rows times
scales of its own, ``x[m, k] * input_scales[j, k]`` in f32, ``J = ceil(N / n_group_size)``: scales
of the weight that vary along its inputs (AdaDim, arXiv 2309.15531).  What follows sees these.

With ``low_rank_down`` and ``low_rank_up`` the weight has a low-rank branch beside its codes: what
these lose (SVDQuant, arXiv 2411.05007; LoRC in ZeroQuant-V2, arXiv 2303.08302).  Of the new rows,
before input scales and quantization, ``low_rank[m, n] = sum over r of (sum over k of x[m, k] *
D[r, k]) * U[n, r]``, in f32, sums in any order; 0 without a branch.  U's rows are in plain order,
those of the gate before those of the up projection with ``swiglu``.

With ``splits``, Y's columns go to several outputs, one for each size: what a Split behind it
would make.  The sizes add up to Y's columns, and all but the last are multiples of 16.  There is
no residual then.

With ``acts=intB`` (B of 8, 4, 3 or 2) each row is quantized on the fly, for each run of
``act_group_size`` inputs: ``top = 2**(B-1) - 1``; ``amax = max |x|``; ``inv = top / amax`` and
``s_a = amax / top`` (both 0 when ``amax < 1e-30``); ``q = round_half_to_even(x * inv)``, an integer
in [-top, top].  All of it in f32, so that kernel and body agree on every code.  With ``acts=int1``,
q is -1 where ``x < 0`` and 1 elsewhere, and s_a is the mean of ``|x|`` (0 when it is below 1e-30;
XNOR-Net, arXiv 1603.05279).

With ``act_scale`` s, which takes ``acts=int8``: ``inv = 1 / s``; ``s_a = s``; ``q =
round_half_to_even(min(max(x * inv, -127), 127))``; ``act_group_size`` is K then, and s is from
1e-30 to 1e30.

With ``acts=none``, q is X and s_a is 1; kernels may round X to 2**-23 of the largest ``|X|`` in its
row and group.  A NaN or infinity in a row makes that row's whole output NaN.

Where q and the codes have few bits between them, kernels multiply planes of bits (and, popcount):
they read the planes out of the same packed bytes, and give the same sums.

With ``activation=swiglu``, N is even, W's first N/2 rows are the gate and the others the up
projection; ``Y[m, f] = silu(gate[m, f]) * up[m, f]`` has N/2 columns.  Gate and up rows are
tiled apart and their tiles interleaved: tile 2i holds gate rows 16i..16i+15 and tile 2i+1 up
rows 16i..16i+15, so ``T = 2 * ceil(N/2 / 16)``; bias is [N] in plain order.

``gelu`` is ``y/2 (1 + erf(y / sqrt 2))``, ``gelu_tanh`` the standard ``Gelu``'s approximation of
it.

``LowBitGather`` (version 1) looks rows up, of layout 3 alone: inputs ``packed``, ``scales``,
``zero_points`` (optional), ``table`` (optional), ``indices`` (i64 or i32 [...]; negative counts
from the end, out of range is an error); attributes N, K, bits, group_size, layout, scale_factor;
output f32 [..., K] of ``s_w * (t[c] - z)``.

``LowBitConv`` (version 1) convolves a float image or signal with a packed low-bit weight of
layout 3: what the standard ``Conv`` computes from X, W and bias.  Its inputs are those of
``LowBitMatMul``, with X f32 [n, C, *spatial] of one or two spatial axes; the output is f32
[n, N, *out]::

    Y = residual + out_scale * activation(Conv(X, W, bias)) + out_shift

Attributes (ints): ``N``, ``C``, ``groups`` (conv groups; divides both), ``bits``, ``group_size``,
``layout``, ``act_group_size``; (lists of ints, as in ``Conv``): ``kernel_shape``, ``strides``,
``pads`` (begins, then ends; none negative), ``dilations``; (strings): ``acts``, ``activation``
(``none``, ``relu``, ``clip`` or ``hardswish``); (floats): ``clip_min``, ``clip_max`` (read for
``clip`` alone), ``out_scale`` (1 where it is missing), ``out_shift`` (0 where it is missing),
``scale_factor``.

``hardswish`` is ``y * max(0, min(1, y/6 + 1/2))``.

Let ``Cg = C / groups`` and ``taps`` the product of ``kernel_shape``.  The weight is packed as
rows over ``K' = taps * Cp`` inputs in the order (tap, channel); ``Cp`` is Cg rounded up to a
multiple of 16 where there are several taps, else Cg.  ``group_size`` is Cp (one scale a tap), or
a multiple of 16 that divides Cg; groups never straddle taps.  The N / groups rows of each conv
group are tiled apart: ``T = groups * ceil(N / groups / 16)``.  Codes of the channels from Cg to
Cp mean nothing.

With ``acts=int8`` each pixel is quantized on the fly just as a row of ``LowBitMatMul``, with one
scale for each run of ``act_group_size`` channels: Cg or ``group_size``.  Padding is zeros.  A NaN
or infinity makes the outputs whose windows hold it NaN.  With ``acts=none`` (``act_group_size`` is
not read) it does so too, but for the depthwise case.

The depthwise case, ``Cg = 1``, takes ``acts=none`` alone and no f32 table, has one scale per
output channel (``group_size = K' = taps``), and its rows are tiled in plain order: ``T =
ceil(N / 16)``.

``Hadamard`` (version 1) multiplies runs of ``size`` inputs by an orthonormal matrix: inputs X
f32 [..., K] and ``base`` int8 [m, m] (constant; optional, m = 1 when absent); attribute ``size``
(int), ``m * 2**n`` for some n, which divides K; output f32, the shape of X::

    Y = X H / sqrt(size),  H = base (x) S_n,  S_0 = [1],  S_n = [[1, 1], [1, -1]] (x) S_(n-1)

base's entries are 1 and -1, m is a multiple of 4 up to 512; with orthogonal rows H is a Hadamard
matrix.  Sums are made in f32, in any order, and then multiplied by f32(1 / sqrt(size)).

``FusedAttention`` (version 1) is attention with its cache and rotary embedding: softmax over keys
of ``scale * q k``, times the values, for H query heads, of which ``H / Hkv`` neighbours share a
K/V head::

    Y = softmax(scale * Q K^T + mask) V

====  ============  =====================  ==================================================
 in   name          type and shape         meaning
====  ============  =====================  ==================================================
 0    query         f32 [B, S, H * D]      or [B, S, (H + 2 Hkv) * D] where ``packed``
 1    key           f32 [B, N, Hkv * D]    new keys; optional
 2    value         f32 [B, N, Hkv * D]    new values; there with key
 3    past_key      f32 [B, Hkv, P, D]     optional
 4    past_value    f32 [B, Hkv, P, D]     there with past_key
 5    lengths       i64 [B]                keys that count, new ones included; optional
 6    total         i64, one element       optional, P + N when absent
 7    cos           f32 [positions, D/2]   optional
 8    sin           f32 [positions, D/2]   there with cos
 9    mask          f32                    added to scores; broadcast to [B, H, S, L]; optional
====  ============  =====================  ==================================================

Outputs: Y f32 [B, S, H * D]; present_key and present_value f32 [B, Hkv, L, D], both or neither,
with ``L = max(P, total)``, or ``P + N`` where they are missing.

Attributes (ints): ``num_heads`` (H), ``kv_num_heads`` (Hkv, a divisor of H), ``head_size`` (D, up
to 256), ``packed`` (1: query holds query, key and value side by side, and ``N = S``), ``causal``,
``interleaved``; (floats): ``scale``, ``softcap`` (0, or when missing: none; else scores x become
``softcap * tanh(x / softcap)`` before the mask).

Of batch entry b, new keys go to slots ``p .. p + N - 1`` with ``p = max(0, lengths[b] - N)`` (P
without ``lengths``): behind the past ones, with padding on the right.  Other slots of the present
keep what the past has there, and are 0 behind it.  Past and present may be the same memory; then
only the new slots are written.  Slots from ``lengths[b]`` on are never read.  Query i sees the keys
before ``lengths[b]`` and, with ``causal`` (``N = S``), none after slot ``p + i``; a query that sees
none, or whose scores are all minus infinity, has a Y of 0.  Without present outputs there are
either new keys or past ones, not both.

With ``cos`` and ``sin`` (``N = S``, and present outputs) queries and new keys are turned by the
angles of their positions ``p + i`` first: element d with ``d + D/2``, or 2d with 2d + 1 where
``interleaved`` (RotaryEmbedding of the standard); the present holds turned keys.

A NaN or infinite score makes Y of its query and head NaN; one among the values may also reach
queries that do not see it.

Rows of X, and pixels, are independent and no sum is split between threads, nor are the sums over
chunks of keys put together in another order: the result is the same for any number of threads.
"""

DOMAIN = "bitfold"
VERSION = 1
