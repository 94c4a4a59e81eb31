"""Inlined elementary functions for numba kernels, in the argument's own precision, so that loops over channels vectorise.

numba's own `math.exp` stays a scalar call. Coefficients are those of vecmath.h.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .jit import OPTIONS

LOG2_E = 1.44269504088896340736

_EXP2 = {  # (2^r - 1)/r on |r| <= 1/2, lowest power first
    32: (0.6931469775964691, 0.24022242081104875, 0.05550733745336525, 0.009671512917326205, 0.0013264727391626221),
    64: (
        0.69314718055994530942,
        0.2402265069591009822,
        0.055504108664821594339,
        0.0096181291076068885273,
        0.001333355814641693531,
        0.00015403530441736050155,
        0.000015252733829836118394,
        1.3215442587921689653e-6,
        1.0178062445845773521e-7,
        7.0725859492692236999e-9,
        4.4549605981865183938e-10,
    ),
}
_SECOND_DIFFERENCE = {  # (e^r - 1 - r)/r^2 on |r| <= 0.3466
    32: (
        0.50000000134658092001,
        0.16666666681623231402,
        0.041666464925285905408,
        0.0083333109254809008349,
        0.001393364999630925043,
        0.00019890990824673653848,
    ),
    64: (
        0.5,
        0.16666666666666666667,
        0.041666666666666676774,
        0.008333333333333334007,
        0.0013888888888879073994,
        0.00019841269841263299129,
        0.000024801587336442237861,
        2.7557319247218730776e-6,
        2.7557263278088496905e-7,
        2.5052071094293546753e-8,
        2.0918137737642736429e-9,
        1.6086627956780368844e-10,
    ),
}
_ARTANH = {  # artanh(s)/s on s <= 1/3, of s^2
    32: (
        1.0,
        0.3333333951321698478,
        0.19999355623431165808,
        0.14310103704218619165,
        0.10699280253339271618,
        0.12196954042011512453,
    ),
    64: (
        1.0,
        0.33333333333333330667,
        0.2000000000000013402,
        0.14285714285687825765,
        0.11111111113820865993,
        0.090909089260906135886,
        0.076923141106323210244,
        0.066664997601925853657,
        0.058853092776241545906,
        0.052274737577654313479,
        0.050490927343170297784,
        0.028927044988338250322,
        0.080362830673391359166,
    ),
}
_LN2 = {  # ln 2 in two parts, of which the first has few bits
    32: (6.93359375e-1, -2.12194440e-4),
    64: (6.93147180369123816490e-01, 1.90821492927058770002e-10),
}
_FORMAT = {32: (23, 127, 128.0, -125.0), 64: (52, 1023, 1024.0, -1021.0)}  # mantissa bits, bias, ends of exp2


def _horner(builder: Any, kind: ir.Type, coefficients: tuple[float, ...], r: Any) -> Any:
    total = ir.Constant(kind, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = _multiply_add(builder, total, r, ir.Constant(kind, coefficient))
    return total


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, which the compiler may fuse."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


@intrinsic
def like(typingctx: Any, number: Any, x: Any) -> Any:
    """`number` in the type of x, where a plain literal would turn float32 arithmetic into float64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[0], signature.args[0], x)

    return x(number, x), codegen


def _power(builder: Any, value: Any, bits: int, *, natural: bool) -> Any:
    """2^value, or e^value for value <= 0, whose reduction keeps what a product with log2(e) would round off."""
    mantissa, bias, high, low = _FORMAT[bits]
    real, integer = value.type, ir.IntType(bits)

    def constant(number: float) -> ir.Constant:
        return ir.Constant(real, number)

    exponent = builder.fmul(value, constant(LOG2_E)) if natural else value
    above = builder.fcmp_ordered(">", exponent, constant(high))
    clamped = builder.select(above, constant(high), exponent)
    below = builder.fcmp_ordered("<", exponent, constant(low))
    clamped = builder.select(below, constant(low), clamped)
    rint = builder.module.declare_intrinsic("llvm.rint", [real])
    whole = builder.call(rint, [clamped])
    if natural:
        # as calls: `reassoc` would join the two parts again
        muladd = builder.module.declare_intrinsic("llvm.fmuladd", [real], ir.FunctionType(real, [real] * 3))
        r = value
        for part in _LN2[bits]:
            r = builder.call(muladd, [whole, constant(-part), r])
        r = builder.fmul(r, constant(LOG2_E))
    else:
        r = builder.fsub(clamped, whole)
    p = _multiply_add(builder, _horner(builder, real, _EXP2[bits], r), r, constant(1.0))
    finite = builder.fcmp_ordered("==", whole, whole)
    k = builder.fptosi(builder.select(finite, whole, constant(0.0)), integer)
    biased = builder.add(k, ir.Constant(integer, bias - 1))
    scale = builder.bitcast(builder.shl(biased, ir.Constant(integer, mantissa)), real)
    scaled = builder.fmul(builder.fmul(p, scale), constant(2.0))
    return builder.select(below, constant(0.0), scaled)


@intrinsic
def exp2(typingctx: Any, x: Any) -> Any:
    """2^x; exactly 1 at 0, 0 below 2^-125 (2^-1021), infinity and NaN as IEEE has them."""
    if x not in (types.float32, types.float64):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _power(builder, args[0], x.bitwidth, natural=False)

    return x(x), codegen


@intrinsic
def exp2_inside(typingctx: Any, x: Any) -> Any:
    """2^x for -125 <= x < 127 (-1021, 1023), exactly 1 at 0, without a guard."""
    if x not in (types.float32, types.float64):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (value,) = args
        mantissa, real, integer = _FORMAT[x.bitwidth][0], value.type, ir.IntType(x.bitwidth)
        whole = builder.call(builder.module.declare_intrinsic("llvm.rint", [real]), [value])
        r = builder.fsub(value, whole)
        p = _multiply_add(builder, _horner(builder, real, _EXP2[x.bitwidth], r), r, ir.Constant(real, 1.0))
        scale = builder.shl(builder.fptosi(whole, integer), ir.Constant(integer, mantissa))
        return builder.bitcast(builder.add(builder.bitcast(p, integer), scale), real)

    return x(x), codegen


@intrinsic
def exp_negative(typingctx: Any, x: Any) -> Any:
    """e^x for x <= 0; 0 below 2^-125 (2^-1021)."""
    if x not in (types.float32, types.float64):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _power(builder, args[0], x.bitwidth, natural=True)

    return x(x), codegen


@intrinsic
def second_difference(typingctx: Any, x: Any) -> Any:
    """(e^x - 1 - x)/x^2 for |x| <= 0.3466."""
    if x not in (types.float32, types.float64):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (value,) = args
        return _horner(builder, value.type, _SECOND_DIFFERENCE[x.bitwidth], value)

    return x(x), codegen


@intrinsic
def _artanh_over_s(typingctx: Any, w: Any) -> Any:
    """artanh(s)/s of w = s^2, s <= 1/3."""
    if w not in (types.float32, types.float64):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (value,) = args
        return _horner(builder, value.type, _ARTANH[w.bitwidth], value)

    return w(w), codegen


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def softplus(x: Any) -> Any:
    """log(1 + e^x) = max(x, 0) + 2 artanh(e/(2 + e)), e = exp(-|x|); above 20 the identity."""
    zero: Any = like(0.0, x)  # type: ignore[call-arg]
    e: Any = exp_negative(-abs(x))
    s = e / (e + like(2.0, x))
    tail: Any = _artanh_over_s(s * s)
    return x if x > 20 else (x if x > 0 else zero) + (s + s) * tail


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def sigmoid(x: Any) -> Any:
    """1/(1 + e^-x)."""
    one: Any = like(1.0, x)  # type: ignore[call-arg]
    e: Any = exp_negative(-abs(x))
    return (e if x < 0 else one) / (one + e)
