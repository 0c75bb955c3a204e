import numpy as np

from pipeline.predict import mask_bits


def test_the_largest_part_of_each_mask_is_kept() -> None:
    masks = np.zeros((3, 9, 15), bool)  # 135 pixels: no whole number of words
    masks[0, 1:4, 1:4] = masks[0, 6:8, 10:15] = True  # 9 and 10 pixels
    masks[1, 8, 14] = True
    words = np.zeros((3, 3), np.uint64)
    for mask, into in zip(masks, words, strict=True):
        bits = np.packbits(mask, bitorder="little")
        into.view(np.uint8)[: bits.size] = bits
    kept = mask_bits.largest_parts(words, (9, 15))
    found = np.unpackbits(kept.view(np.uint8), axis=1, count=135, bitorder="little")
    masks[0, 1:4, 1:4] = False
    np.testing.assert_array_equal(found.reshape(3, 9, 15) > 0, masks)
