"""Pictures of masks: what is painted, shrunk and laid over photographs."""

import io

import numpy as np
from PIL import Image

from pipeline.data.images import decode_image
from pipeline.support import pictures
from pipeline.support.pictures import COLORS, FALSE_POSITIVE, HIT, MISSED, OPACITY


def drawn() -> tuple[pictures.Layers, pictures.Layers]:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (600, 1200, 3)).astype(np.uint8)
    truth, prediction = np.zeros((2, 600, 1200), bool)
    truth[150:450, 300:900], prediction[150:450, 360:900] = True, True
    return pictures.draw_layers(image, prediction, truth)


def layer(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGBA"))


def test_each_kind_of_pixel_has_its_color() -> None:
    image = np.full((1, 4, 3), 100, np.uint8)
    prediction = np.array([[True, False, True, False]])
    truth = np.array([[True, True, False, False]])
    painted = pictures.overlay(image, prediction, truth)
    for column, kind in enumerate((HIT, MISSED, FALSE_POSITIVE)):
        expected = np.round((1 - OPACITY) * 100 + OPACITY * np.array(COLORS[kind]))
        np.testing.assert_array_equal(painted[0, column], expected)
    np.testing.assert_array_equal(painted[0, 3], [100, 100, 100])


def test_a_jpeg_comes_back_in_rgb() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, :, 0] = 200
    decoded = decode_image(pictures.encode_jpeg(image), (16, 16), "overlay")
    assert decoded[..., 0].mean() > 190 and decoded[..., 2].mean() < 10


def test_shrinking_keeps_thin_mistakes() -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[:, :20] = HIT
    classes[:, 20:22] = FALSE_POSITIVE  # half of a column of 4-pixel blocks
    small, found = pictures.shrink(np.zeros((40, 40, 3), np.uint8), classes, 10)
    assert small.shape == (10, 10, 3) and found.shape == (10, 10)
    assert found[0].tolist() == [1, 1, 1, 1, 1, 3, 0, 0, 0, 0]
    same, kept = pictures.shrink(np.zeros((40, 40, 3), np.uint8), classes, 50)
    assert same.shape == (40, 40, 3) and kept is classes


def test_the_worst_window_holds_the_most_mistakes() -> None:
    classes = np.full((100, 120), HIT, np.uint8)
    classes[5:8, 100:118] = MISSED  # 54 pixels at the upper right
    classes[60:70, 20:30] = FALSE_POSITIVE  # 100 pixels
    rows, columns = pictures.worst_window(classes, (20, 30))
    assert (classes[rows, columns] == FALSE_POSITIVE).sum() == 100
    assert classes[rows, columns].shape == (20, 30)
    classes[90:, 100:] = FALSE_POSITIVE  # at the edge
    rows, columns = pictures.worst_window(classes, (20, 30))
    assert (classes[rows, columns] == FALSE_POSITIVE).sum() == 200
    assert classes[pictures.worst_window(classes, (300, 30))].shape == (100, 30)


def test_layers_are_transparent_outside_their_pixels() -> None:
    of_whole, of_window = drawn()
    whole = layer(of_whole.difference)
    assert whole.shape == (480, 960, 4)
    assert tuple(whole[240, 266]) == (*COLORS[MISSED], 255)
    assert tuple(whole[240, 500, :3]) == COLORS[HIT] and 0 < whole[240, 500, 3] < 255
    assert whole[10, 10, 3] == 0
    assert tuple(layer(of_whole.truth)[240, 266]) == (*pictures.TRUTH, 255)
    assert layer(of_whole.prediction)[240, 266, 3] == 0
    window = layer(of_window.difference)
    assert window.shape == (288, 384, 4)
    missed = (window[..., :3] == COLORS[MISSED]).all(axis=2) & (window[..., 3] > 0)
    assert missed.sum() == 288 * 60, "all that is missed, at full size"
    with Image.open(io.BytesIO(of_whole.photograph)) as image:
        assert (image.format, image.size) == ("WEBP", (960, 480))


def test_the_lowest_and_some_others_are_chosen() -> None:
    scores = [0.9, 0.2, 0.8, 0.3, 0.95, 0.85]
    chosen = pictures.choose(scores, 2, 3, seed=1)
    assert chosen[:2] == [(1, "worst"), (3, "worst")]
    others = [index for index, kind in chosen[2:] if kind == "random"]
    assert len(others) == 3 and set(others) <= {0, 2, 4, 5} and others == sorted(others)


def test_classes_are_tinted_and_outlined() -> None:
    image = np.full((40, 60, 3), 100, np.uint8)
    classes = np.zeros((40, 60), np.uint8)
    classes[10:30, 10:30], classes[10:30, 40:55] = 1, 2
    drawn = pictures.tint(image, classes, ((255, 0, 0), (0, 0, 255)))
    assert drawn[20, 20].tolist() == [146, 70, 70] and drawn[20, 47].tolist() == [70, 70, 146]
    assert drawn[10, 20].tolist() == [255, 0, 0] and drawn[2, 2].tolist() == [100, 100, 100]
