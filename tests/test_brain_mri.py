from pathlib import Path

import numpy as np
import pytest
from conftest import HEIGHT, PATIENTS, SLICES, WIDTH, tiny_image, tiny_mask, write_tiny_brains

from pipeline.data.archives import Archives
from pipeline.data.images import decode_image, decode_mask
from pipeline.sources import brain_mri
from pipeline.support.errors import UserError


def test_each_slice_comes_once_with_its_mask_and_patient(tmp_path: Path) -> None:
    archives = Archives(write_tiny_brains(tmp_path))
    entries = brain_mri.read_entries(archives)
    assert [e.sample_id for e in entries] == [f"{p}_{n}" for p in PATIENTS for n in SLICES]
    assert [entry.group for entry in entries] == [p for p in PATIENTS for _ in SLICES]
    for entry in entries:
        assert entry.image == f"{brain_mri.ARCHIVE}!kaggle_3m/{entry.group}/{entry.sample_id}.tif"
        assert entry.mask == entry.image.replace(".tif", "_mask.tif")
        number = int(entry.sample_id.rpartition("_")[2])
        mask = decode_mask(archives.read(entry.mask), (HEIGHT, WIDTH), entry.mask, entry.values)
        np.testing.assert_array_equal(mask, tiny_mask(number) * (number > 1))
        image = decode_image(archives.read(entry.image), (HEIGHT, WIDTH), entry.image)
        np.testing.assert_array_equal(image, tiny_image(mask, number))
    archives.close()


@pytest.mark.parametrize("gone", ["4941_19960909_2.tif", "4941_19960909_2_mask.tif"])
def test_a_slice_or_mask_alone_is_refused(tmp_path: Path, gone: str) -> None:
    archives = Archives(write_tiny_brains(tmp_path, gone))
    with pytest.raises(UserError, match=f"1 of 6 slices have .* the first is '{PATIENTS[0]}_2'"):
        brain_mri.read_entries(archives)
