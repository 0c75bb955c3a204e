import numpy as np

from pipeline.images import decode_image
from pipeline.report import FALSE_POSITIVE, HIT, MISSED, OPACITY, encode_jpeg, overlay


def test_each_kind_of_pixel_has_its_colour() -> None:
    image = np.full((1, 4, 3), 100, np.uint8)
    prediction = np.array([[True, False, True, False]])
    truth = np.array([[True, True, False, False]])
    painted = overlay(image, prediction, truth)
    for column, colour in enumerate((HIT, MISSED, FALSE_POSITIVE)):
        expected = np.round((1 - OPACITY) * 100 + OPACITY * np.array(colour))
        np.testing.assert_array_equal(painted[0, column], expected)
    np.testing.assert_array_equal(painted[0, 3], [100, 100, 100])


def test_a_jpeg_comes_back_in_rgb() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, :, 0] = 200
    decoded = decode_image(encode_jpeg(image), (16, 16), "overlay")
    assert decoded[..., 0].mean() > 190 and decoded[..., 2].mean() < 10
