"""CRC-32C (Castagnoli), the checksum Google's storage gives for files put together of parts.

Polynomial 0x1EDC6F41, reflected, initial value and final XOR 0xFFFFFFFF (RFC 3720, B.4);
the check value of b"123456789" is 0xE3069283. Compiled by numba on first use: about 1 GB/s,
where a loop in Python does 5 MB/s.
"""

import functools

import numba
import numpy as np
from numpy.typing import NDArray

_REFLECTED = 0x82F63B78  # 0x1EDC6F41 with its bits reversed


def update(value: int, data: bytes) -> int:
    """Return the checksum of what gave `value` (0: nothing yet) followed by `data`."""
    octets = np.frombuffer(data, np.uint8)
    return int(_run(np.uint32(value ^ 0xFFFFFFFF), octets, _tables())) ^ 0xFFFFFFFF


@functools.cache
def _tables() -> NDArray[np.uint32]:
    """(8, 256): row k advances a byte by k further zero bytes ("slicing by eight")."""
    tables = np.zeros((8, 256), np.uint32)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_REFLECTED if value & 1 else 0)
        tables[0, byte] = value
    for row in range(1, 8):
        before = tables[row - 1]
        tables[row] = tables[0][before & 0xFF] ^ (before >> 8)
    return tables


@numba.njit(nogil=True, cache=True)
def _run(value, data, tables):  # type: ignore[no-untyped-def]
    """Advance the raw register `value` over `data`, eight bytes a step."""
    whole = data.size // 8 * 8
    for i in range(0, whole, 8):
        a = value ^ (
            np.uint32(data[i])
            | np.uint32(data[i + 1]) << np.uint32(8)
            | np.uint32(data[i + 2]) << np.uint32(16)
            | np.uint32(data[i + 3]) << np.uint32(24)
        )
        value = (
            tables[7, a & 0xFF]
            ^ tables[6, (a >> 8) & 0xFF]
            ^ tables[5, (a >> 16) & 0xFF]
            ^ tables[4, a >> 24]
            ^ tables[3, data[i + 4]]
            ^ tables[2, data[i + 5]]
            ^ tables[1, data[i + 6]]
            ^ tables[0, data[i + 7]]
        )
    for i in range(whole, data.size):
        value = tables[0, (value ^ data[i]) & 0xFF] ^ (value >> 8)
    return value
