"""Types of arrays, by what they hold."""

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]  # (H, W), true inside

Size = tuple[int, int]  # height, width in pixels
