"""The smooth step: from 0 to 1 without a crease at either end.

Shapes, reflections and the seam between wall and floor blend with it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def smoothstep(low: float, high: float, value: ArrayLike) -> NDArray[np.float32]:
    """The share s of the way from `low` to `high`, eased to 3 s**2 - 2 s**3.

    Args:
        low: the value up to which the step is 0.
        high: the value from which it is 1; not `low`.
        value: any shape, in the unit of the two.

    Returns:
        0-1, of the shape of `value`.
    """
    share = np.clip((np.asarray(value, np.float32) - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)
