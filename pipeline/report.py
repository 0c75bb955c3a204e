"""Pictures of what a model got right and wrong."""

import cv2
import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

HIT = (0, 158, 115)  # RGB, from Okabe and Ito's palette, told apart by the colour-blind
MISSED = (0, 114, 178)
FALSE_POSITIVE = (213, 94, 0)
OPACITY = 0.6


def overlay(image: UInt8, prediction: Mask, truth: Mask) -> UInt8:
    """Paint hits green, missed pixels blue and false positives orange over a picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        prediction, truth: (H, W) bool.

    Returns:
        (H, W, 3) uint8 RGB; background agreed on by both keeps the picture's colours.
    """
    painted = image.astype(np.float32)
    for where, colour in (
        (prediction & truth, HIT),
        (~prediction & truth, MISSED),
        (prediction & ~truth, FALSE_POSITIVE),
    ):
        painted[where] = (1 - OPACITY) * painted[where] + OPACITY * np.array(colour, np.float32)
    return painted.round().astype(np.uint8)


def encode_jpeg(image: UInt8) -> bytes:
    """An RGB picture as JPEG bytes."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done, f"JPEG encoding of an array of shape {image.shape} failed"
    return data.tobytes()
