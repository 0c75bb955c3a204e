"""Run-length text against slow obvious code, pycocotools and the competition's own rows."""

import csv
import io
import itertools
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco

from pipeline.masks import rle

HEIGHT, WIDTH = 1280, 1918  # of Carvana's images
SIZES = [
    (1, 1), (1, 7), (1, 8), (1, 9), (9, 1), (8, 8), (1, 63), (1, 64), (1, 65), (65, 1), (1, 127),
    (2, 64), (1, 129), (3, 43), (16, 16), (37, 53), (64, 65),
]  # fmt: skip

anything = settings(deadline=None, max_examples=200)


def slow_runs(pixels):
    """Runs of a flat mask as (start from 1, length), one pixel at a time."""
    runs, length = [], 0
    for position, inside in enumerate([*pixels, False]):
        if inside:
            length += 1
        elif length:
            runs.append((position - length + 1, length))
            length = 0
    return runs


def slow_encode(mask, order="C"):
    pixels = np.asarray(mask).ravel(order=order).astype(bool).tolist()
    return " ".join(f"{start} {length}" for start, length in slow_runs(pixels))


def pack(mask):
    return np.packbits(np.asarray(mask).ravel() != 0, bitorder="little")


def corner_cases(height, width):
    """Masks that touch corners and ends, empty and full ones, checkerboards and noise."""
    empty = np.zeros((height, width), bool)
    yield empty
    yield ~empty
    for y in {0, height - 1}:
        for x in {0, width - 1}:
            corner = empty.copy()
            corner[y, x] = True
            yield corner
            yield ~corner
    checkerboard = np.indices((height, width)).sum(axis=0) % 2 == 0
    yield checkerboard
    yield ~checkerboard
    random = np.random.default_rng(height * 1000 + width)
    for share in (0.01, 0.5, 0.99):
        yield random.random((height, width)) < share


@st.composite
def blocky(draw):
    """Masks of long runs, as real ones are: alternating lengths cut to a rectangle."""
    lengths = draw(st.lists(st.integers(1, 300), min_size=1, max_size=20))
    inside = draw(st.booleans())
    pixels = np.concatenate([np.full(n, (i % 2 == 0) == inside) for i, n in enumerate(lengths)])
    height = draw(st.integers(1, min(4, pixels.size)))
    width = pixels.size // height
    return pixels[: height * width].reshape(height, width)


noisy = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))
masks = noisy | blocky()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_way_equals_the_slow_encoder(height, width):
    for mask in corner_cases(height, width):
        for order in ("C", "F"):
            text = rle.encode(mask, order)
            assert text == slow_encode(mask, order)
            assert rle.check(text, height, width) == mask.sum()
            np.testing.assert_array_equal(rle.decode(text, height, width, order), mask)
        assert rle.encode_packed(pack(mask), height, width) == slow_encode(mask)


@anything
@given(masks, st.sampled_from(["C", "F"]))
def test_round_trip(mask, order):
    text = rle.encode(mask, order)
    assert text == slow_encode(mask, order)
    decoded = rle.decode(text, *mask.shape, order)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, mask)
    np.testing.assert_array_equal(rle.decode(text.encode(), *mask.shape, order), mask)


@anything
@given(masks, st.binary(max_size=20))
def test_packed_equals_bytes_whatever_follows_the_last_pixel(mask, junk):
    bits = pack(mask)
    used = mask.size % 8
    if used:
        bits[-1] |= (0xFF << used) & 0xFF
    bits = np.concatenate([bits, np.frombuffer(junk, np.uint8)])
    assert rle.encode_packed(bits, *mask.shape) == rle.encode(mask)


@anything
@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_any_nonzero_byte_is_foreground(mask):
    assert rle.encode(mask) == rle.encode(mask != 0) == slow_encode(mask != 0)


# pycocotools 2.0 returns arrays in a way that numpy 2 announces an end to.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@anything
@given(masks)
def test_pycocotools_reads_the_same_mask(mask):
    # Its runs go down columns and alternate from background; ours name the foreground only.
    numbers = [int(token) for token in rle.encode(mask, "F").split()]
    counts, end = [], 0
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        counts += [start - 1 - end, length]
        end = start - 1 + length
    if end < mask.size:
        counts.append(mask.size - end)
    theirs = coco.frPyObjects({"size": list(mask.shape), "counts": counts}, *mask.shape)
    np.testing.assert_array_equal(coco.decode(theirs), mask)
    assert theirs == coco.encode(np.asfortranarray(mask, np.uint8))


def test_layouts_and_offsets_that_are_not_plain_arrays():
    mask = np.random.default_rng(0).random((90, 131)) < 0.3
    assert rle.encode(np.asfortranarray(mask)) == slow_encode(mask)
    row = np.broadcast_to(mask[0], (5, 131))
    for view in (mask[::2, ::3], mask[::-1, ::-1], mask.T, mask[1:, 1:], row, mask[:1, ::2]):
        assert rle.encode(view) == slow_encode(view)
        assert rle.encode(view, "F") == slow_encode(view, "F")
    flat = np.concatenate([np.zeros(16, bool), mask.ravel()]).view(np.uint8)
    for offset in range(16):  # every alignment of the first pixel
        shifted = flat[offset : offset + 90 * 131].reshape(90, 131)
        assert rle.encode(shifted) == slow_encode(shifted)
    bits = np.concatenate([np.zeros(3, np.uint8), pack(mask)])[3:]
    assert rle.encode_packed(bits, 90, 131) == slow_encode(mask)
    read_only = np.frombuffer(mask.tobytes(), np.uint8).reshape(mask.shape)
    assert rle.encode(read_only) == slow_encode(mask)


def test_the_longest_texts_at_full_size():
    checkerboard = (np.indices((HEIGHT, WIDTH)).sum(axis=0) % 2).astype(bool)
    stripes = np.zeros((HEIGHT, WIDTH), bool)
    stripes[:, ::2] = True
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
    for mask in (checkerboard, stripes, noise):
        text = rle.encode(mask)
        assert text == rle.encode_packed(pack(mask), HEIGHT, WIDTH)
        np.testing.assert_array_equal(rle.decode(text, HEIGHT, WIDTH), mask)


@pytest.mark.parametrize("number", [1, 9, 10, 99, 100, 65535, 10**6, 10**8 - 1, 10**9, 2**32 - 1])
def test_numbers_of_every_length(number):
    out = np.full(20, 0xAA, np.uint8)
    end = rle._write_number(number, out, 3)
    assert out[3:end].tobytes() == f"{number} ".encode()
    assert (out[:3] == 0xAA).all() and (out[end:] == 0xAA).all()


REFUSED = [
    ("1", "token 1 of 1 is '1'; expected a length after it"),
    ("1 2 5", "token 3 of 3 is '5'; expected a length after it"),
    ("0 1", "token 1 of 2 is '0'; expected a start of 1 or more"),
    ("-1 2", "token 1 of 2 is '-1'; expected a whole number in digits"),
    ("1 0", "token 2 of 2 is '0'; expected a length of 1 or more"),
    ("1 2 2 1", "token 3 of 4 is '2'; expected a start of 3 or more"),
    ("5 1 1 1", "token 3 of 4 is '1'; expected a start of 6 or more"),
    ("1 1 0 1", "token 3 of 4 is '0'; expected a start of 2 or more"),
    ("1 7", "token 2 of 2 is '7'; expected a run that ends by the last pixel, 2x3 = 6"),
    ("1 1 6 2", "token 4 of 4 is '2'; expected a run that ends by the last pixel"),
    ("7 1", "token 2 of 2 is '1'; expected a run that ends by the last pixel"),
    ("1 " + "9" * 40, "token 2 of 2 is '9999"),
    ("9" * 5000 + " 1", "token 2 of 2 is '1'; expected a run that ends"),
    ("0" * 5000 + "1 2 1 1", "token 3 of 4 is '1'; expected a start of 3 or more"),
    ("1.0 2", "token 1 of 2 is '1.0'; expected a whole number in digits"),
    ("1 x", "token 2 of 2 is 'x'"),
    ("1 2,5 1", "token 2 of 3 is '2,5'"),
    ("1 ٣", "token 2 of 2 is '٣'"),
    ("\ud800 1", "token 1 of 2"),
    (" 1 2", "token 1 of 3 is ''; expected a whole number in digits, one blank between"),
    ("1  2", "token 2 of 3 is ''"),
    ("1 2 ", "token 3 of 3 is ''"),
    (" ", "token 1 of 2 is ''"),
    ("1 2\r", r"token 2 of 2 is '2\r'"),
    ("1\t2", r"token 1 of 1 is '1\t2'"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refusals_say_where(text, message):
    with pytest.raises(rle.RleError) as decoding:
        rle.decode(text, 2, 3)
    with pytest.raises(rle.RleError) as checking:
        rle.check(text, 2, 3)
    assert message in str(decoding.value)
    assert str(decoding.value) == str(checking.value)
    assert len(str(decoding.value)) < 200


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(rle.RleError, match="token 2 of 2"):
        rle.check(b"1 \xff", 2, 3)


def test_touching_runs_are_accepted():
    assert rle.check("1 2 3 4", 2, 3) == 6
    assert rle.decode("1 2 3 4", 2, 3).all()


def test_empty_text_is_an_empty_mask():
    assert rle.encode(np.zeros((2, 3), bool)) == ""
    assert not rle.decode("", 2, 3).any()
    assert rle.check("", 2, 3) == rle.check(b"", 2, 3) == 0


def test_images_without_pixels():
    assert rle.encode(np.zeros((0, 5), bool)) == ""
    assert rle.decode("", 0, 5).shape == (0, 5)
    with pytest.raises(rle.RleError):
        rle.check("1 1", 0, 5)


@anything
@given(st.text("0123456789 -x", max_size=30))
def test_check_accepts_exactly_what_slow_code_accepts(text):
    def acceptable():
        if not text:
            return True
        tokens = text.split(" ")
        if len(tokens) % 2 or not all(token.isdigit() for token in tokens):
            return False
        end = 0
        for start, length in zip(map(int, tokens[::2]), map(int, tokens[1::2]), strict=True):
            if start <= end or length < 1 or start + length - 1 > 5000:
                return False
            end = start + length - 1
        return True

    try:
        area = rle.check(text, 50, 100)
    except rle.RleError:
        assert not acceptable()
    else:
        assert acceptable() and area == rle.decode(text, 50, 100).sum()


@pytest.mark.parametrize("mask", [np.zeros((2, 3, 1), bool), np.zeros((2, 3), np.float32)])
def test_what_is_no_mask_is_a_mistake_of_the_caller(mask):
    with pytest.raises(AssertionError, match="a mask is"):
        rle.encode(mask)


def test_too_few_packed_bytes_are_a_mistake_of_the_caller():
    with pytest.raises(AssertionError, match="9 pixels are 2 uint8, not 1"):
        rle.encode_packed(np.zeros(1, np.uint8), 3, 3)


# The rest needs the competition's files.


@pytest.fixture(scope="module")
def data():
    if "PIPELINE_DATA" not in os.environ:
        pytest.skip("PIPELINE_DATA, the folder of Kaggle's archives, is not set")
    return Path(os.environ["PIPELINE_DATA"])


def competition_file(data, name):
    path = data / "competitions" / "carvana-image-masking-challenge" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def read_mask(archive, name):
    return np.asarray(Image.open(io.BytesIO(archive.read(f"train_masks/{name}_mask.gif"))))


def test_official_rows_begin_as_ours(data):
    listed = data.parent / "carvana_full_lists" / "official_train_masks_row_prefixes.tsv"
    if not listed.is_file():
        pytest.skip(f"{listed} is not there")
    with listed.open(newline="") as file:
        rows = {row["img"]: row["rle_prefix_as_printed_by_pandas"]
                for row in csv.DictReader(file, delimiter="\t")}  # fmt: skip
    with zipfile.ZipFile(competition_file(data, "train_masks.zip")) as archive:
        there = set(archive.namelist())
        known = [n for n in rows if f"train_masks/{Path(n).stem}_mask.gif" in there]
        if not known:
            pytest.skip(f"no mask of the {len(rows)} listed rows is in the archive")
        for name in known:
            mask = read_mask(archive, Path(name).stem)
            assert mask.shape == (HEIGHT, WIDTH)
            assert rle.encode(mask).startswith(rows[name]), name
            assert rle.encode_packed(pack(mask), *mask.shape).startswith(rows[name]), name


def test_rows_of_train_masks_csv_are_ours(data):
    with (
        zipfile.ZipFile(competition_file(data, "train_masks.csv.zip")) as rows,
        zipfile.ZipFile(competition_file(data, "train_masks.zip")) as archive,
        rows.open("train_masks.csv") as file,
    ):
        for row in itertools.islice(csv.DictReader(io.TextIOWrapper(file)), 0, None, 40):
            mask = read_mask(archive, Path(row["img"]).stem)
            assert rle.encode(mask) == row["rle_mask"], row["img"]
            np.testing.assert_array_equal(rle.decode(row["rle_mask"], *mask.shape), mask)


def test_runs_are_pixels_from_zero() -> None:
    assert rle.read("1 3 10 9", 4, 5).tolist() == [[0, 3], [9, 18]]
    assert rle.read("", 4, 5).shape == (0, 2)
    assert rle.write(rle.read("1 3 10 9", 4, 5)) == "1 3 10 9"
