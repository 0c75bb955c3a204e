import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.masks import rle
from pipeline.predict import csv_rows


def words_of(masks: np.ndarray) -> np.ndarray:
    packed = np.packbits(masks.reshape(len(masks), -1), axis=1, bitorder="little")
    return np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view(np.uint64)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 5), st.integers(1, 30), st.integers(1, 30), st.sampled_from([0, 0.1, 0.5, 1]),
    st.integers(0, 99),
)  # fmt: skip
def test_rows_are_names_and_run_lengths(count, height, width, share, seed):
    masks = np.random.default_rng(seed).random((count, height, width)) < share
    names = [f"é{i}" * (i + 1) + ".jpg" for i in range(count)]
    rows = csv_rows.encode(names, words_of(masks), height * width)
    expected = [f"{name},{rle.encode(mask)}\n" for name, mask in zip(names, masks, strict=True)]
    assert rows.decode() == "".join(expected)
    assert csv_rows.foreground(words_of(masks)).tolist() == masks.sum(axis=(1, 2)).tolist()


def test_the_longest_text_finds_room():
    masks = np.zeros((3, 400, 700), bool)
    masks[:, :, ::2] = True
    rows = csv_rows.encode(["a", "b", "c"], words_of(masks), 400 * 700)
    assert rows.decode().splitlines()[2] == f"c,{rle.encode(masks[2])}"
