import numpy as np

from pipeline.data.images import decode_image
from pipeline.support.overlay import (
    FALSE_POSITIVE,
    HIT,
    MISSED,
    OPACITY,
    encode_jpeg,
    overlay,
    shrink,
    worst_window,
)


def test_each_kind_of_pixel_has_its_color() -> None:
    image = np.full((1, 4, 3), 100, np.uint8)
    prediction = np.array([[True, False, True, False]])
    truth = np.array([[True, True, False, False]])
    painted = overlay(image, prediction, truth)
    for column, color in enumerate((HIT, MISSED, FALSE_POSITIVE)):
        expected = np.round((1 - OPACITY) * 100 + OPACITY * np.array(color))
        np.testing.assert_array_equal(painted[0, column], expected)
    np.testing.assert_array_equal(painted[0, 3], [100, 100, 100])


def test_a_jpeg_comes_back_in_rgb() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, :, 0] = 200
    decoded = decode_image(encode_jpeg(image), (16, 16), "overlay")
    assert decoded[..., 0].mean() > 190 and decoded[..., 2].mean() < 10


def test_shrinking_keeps_thin_mistakes() -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[:, :20] = 1
    classes[:, 20:22] = 3  # half of a column of 4-pixel blocks
    small, found = shrink(np.zeros((40, 40, 3), np.uint8), classes, 10)
    assert small.shape == (10, 10, 3) and found.shape == (10, 10)
    assert found[0].tolist() == [1, 1, 1, 1, 1, 3, 0, 0, 0, 0]
    same, kept = shrink(np.zeros((40, 40, 3), np.uint8), classes, 50)
    assert same.shape == (40, 40, 3) and kept is classes


def test_the_worst_window_holds_the_most_mistakes() -> None:
    classes = np.ones((100, 120), np.uint8)
    classes[5:8, 100:118] = 2  # 54 pixels at the upper right
    classes[60:70, 20:30] = 3  # 100 pixels
    rows, columns = worst_window(classes, (20, 30))
    assert (classes[rows, columns] == 3).sum() == 100
    assert classes[rows, columns].shape == (20, 30)
    classes[90:, 100:] = 3  # at the edge
    rows, columns = worst_window(classes, (20, 30))
    assert (classes[rows, columns] == 3).sum() == 200
    assert classes[worst_window(classes, (300, 30))].shape == (100, 30)
