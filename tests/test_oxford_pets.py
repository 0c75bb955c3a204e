import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import HEIGHT, WIDTH, jpeg, tiny_image, tiny_mask

from pipeline.archives import Archives
from pipeline.errors import UserError
from pipeline.images import decode_mask
from pipeline.sources import oxford_pets

PETS = ["Bengal_1", "Bengal_10", "american_bulldog_2"]


def classes_of(number: int) -> np.ndarray:
    """Pet, with a border around it and background further out, as class indices."""
    pet = tiny_mask(number)
    return pet + 2 * (cv2.dilate(pet, np.ones((5, 5), np.uint8)) - pet)


def write_tiny_pets(folder: Path, leave_out: str = "") -> Path:
    """Three pets, with what else lies in the archive."""
    folder.mkdir(exist_ok=True)
    trimaps = "annotations/annotations/trimaps"
    with zipfile.ZipFile(folder / oxford_pets.ARCHIVE, "w") as archive:
        archive.writestr(f"{trimaps}/._{PETS[0]}.png", b"Mac")
        archive.writestr("annotations/annotations/list.txt", "#Image CLASS-ID\n")
        archive.writestr(f"annotations/annotations/xmls/{PETS[0]}.xml", "<annotation/>")
        archive.writestr(f"images/images/{PETS[0]}.mat", b"MATLAB")
        for number, stem in enumerate(PETS):
            trimap = np.array([2, 1, 3], np.uint8)[classes_of(number)]
            for name, data in (
                (f"images/images/{stem}.jpg", jpeg(tiny_image(tiny_mask(number), number))),
                (f"{trimaps}/{stem}.png", cv2.imencode(".png", trimap)[1].tobytes()),
            ):
                if name != leave_out:
                    archive.writestr(name, data)
    return folder


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
