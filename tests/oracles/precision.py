"""Fewer bits, slowly: rounding by the bits of a number, and eight-bit products by plain loops."""

import struct

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bfloat16(value: float) -> float:
    """The nearest number with 8 bits of mantissa, ties to even: the upper half of a float32."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    low, bits = bits & 0xFFFF, bits & 0xFFFF0000
    if low > 0x8000 or (low == 0x8000 and bits & 0x10000):
        bits += 0x10000
    (rounded,) = struct.unpack("<f", struct.pack("<I", bits & 0xFFFFFFFF))
    return rounded


def bfloat16_linear(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """x [n, i], weight [o, i], bias [o]: rounded operands, summed exactly, the sum rounded once."""
    result = np.zeros((len(x), len(weight)))
    for n in range(len(x)):
        for o in range(len(weight)):
            total = sum(
                bfloat16(float(x[n, i])) * bfloat16(float(weight[o, i])) for i in range(x.shape[1])
            )
            result[n, o] = bfloat16(total + bfloat16(float(bias[o])))
    return result


def int8_dynamic_linear(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """x [n, i], weight [o, i], bias [o] with eight-bit operands.

    x: one scale and one zero point for the whole tensor, 0 to 255 over its range with zero in it.
    Weights: one scale per output, -127 to 127 over the largest magnitude.
    """
    least, most = min(0.0, float(x.min())), max(0.0, float(x.max()))
    step = (most - least) / 255
    zero = round(-least / step)
    result = np.zeros((len(x), len(weight)))
    for o in range(len(weight)):
        scale = max(abs(float(w)) for w in weight[o]) / 127
        row = [round(float(w) / scale) for w in weight[o]]
        for n in range(len(x)):
            total = 0
            for i in range(x.shape[1]):
                level = min(255, max(0, round(float(x[n, i]) / step) + zero))
                total += (level - zero) * row[i]
            result[n, o] = total * step * scale + float(bias[o])
    return result


def int8_weights(weight: Floats, block: int) -> Floats:
    """weight [o, i] rounded to eight bits per block of inputs: symmetric, -128 to 127.

    The scale is the number of largest magnitude over -128, its sign kept, so that this number is
    represented exactly.
    """
    result = np.zeros_like(weight)
    for o in range(weight.shape[0]):
        for begin in range(0, weight.shape[1], block):
            values = [float(w) for w in weight[o, begin : begin + block]]
            largest = max(values, key=abs)
            scale = largest / -128
            for offset, value in enumerate(values):
                level = min(127, max(-128, round(value / scale))) if scale else 0
                result[o, begin + offset] = level * scale
    return result


def best_beginning(order: list[str], joint: dict[int, float], bound: float) -> list[str]:
    """The longest beginning of an order whose joint divergence lies within the bound."""
    found: list[str] = []
    for count in range(1, len(order) + 1):
        if joint[count] <= bound:
            found = order[:count]
    return found
