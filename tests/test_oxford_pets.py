from pathlib import Path

import numpy as np
import pytest
from conftest import HEIGHT, PETS, WIDTH, classes_of, write_tiny_pets

from pipeline.data.archives import Archives
from pipeline.data.images import decode_mask
from pipeline.sources import oxford_pets
from pipeline.support.errors import UserError


def test_pictures_and_trimaps_pair_up(tmp_path: Path) -> None:
    archives = Archives(write_tiny_pets(tmp_path))
    entries = oxford_pets.read_entries(archives)
    assert [entry.sample_id for entry in entries] == PETS
    assert [entry.group for entry in entries] == PETS
    assert [label.name for label in entries[0].labels] == ["background", "pet", "border"]
    for number, entry in enumerate(entries):
        mask = decode_mask(archives.read(entry.mask), (HEIGHT, WIDTH), entry.mask, entry.values)
        np.testing.assert_array_equal(mask, classes_of(number))
    archives.close()


@pytest.mark.parametrize(
    "gone", ["images/images/Bengal_10.jpg", "annotations/annotations/trimaps/Bengal_10.png"]
)
def test_a_picture_or_trimap_alone_is_refused(tmp_path: Path, gone: str) -> None:
    archives = Archives(write_tiny_pets(tmp_path, gone))
    with pytest.raises(UserError, match="1 of 3 pets have .* the first is 'Bengal_10'"):
        oxford_pets.read_entries(archives)
