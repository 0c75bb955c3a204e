"""Carvana Image Masking Challenge: 16 views of each car on a turntable.

`<car>_<view>.jpg` pairs with `<car>_<view>_mask.gif`; the group is the car. The order of the
test images is the sample submission's. Folder names inside the archives differ between
copies of the data and are ignored.
"""

from pathlib import Path

from pipeline.data.archives import Archives, base_name
from pipeline.data.rows import SAMPLES, find_sample, read_rows
from pipeline.data.samples import Entry
from pipeline.support.errors import UserError

TRAIN = ("train.zip", "train_hq.zip")
TEST = ("test.zip", "test_hq.zip")
MASKS = ("train_masks.zip",)


def read_entries(archives: Archives) -> list[Entry]:
    """All training images in the order of their names, then all test images, if there are any.

    There are none where the folder holds neither their archive nor the sample submission, which
    is up to the recipe's `download.files`.

    A loose `<image>.jpg` (or `<image>.jpg.zip`) beside the archives wins over the archive's
    member: 29bb3ece3180_11.jpg in `test.zip` is corrupt, and Kaggle offers a whole one.

    Raises:
        UserError: an archive is missing, a training image has no mask or a mask no image,
            or the sample submission names an image that is not there.
    """
    there = {path.name for path in archives.folder.glob("*")}
    has_test = there & {*TEST, *SAMPLES}
    return [*_train(archives), *(_test(archives) if has_test else [])]


def _train(archives: Archives) -> list[Entry]:
    archive = _one_of(archives.folder, TRAIN)
    images = _by_stem(archives, archive, ".jpg")
    masks = _by_stem(archives, _one_of(archives.folder, MASKS), "_mask.gif")
    unmasked, unseen = images.keys() - masks.keys(), masks.keys() - images.keys()
    for stems, what in ((unmasked, "no mask"), (unseen, "no image")):
        if stems:
            raise UserError(
                f"{archives.folder / archive}: {what} for {len(stems)} of {len(images)} samples, "
                f"the first is {min(stems)!r}; expected one mask for each image: get "
                f"{archive} and {MASKS[0]} of the same release"
            )
    return [Entry(stem, "train", _car(stem), images[stem], masks[stem]) for stem in sorted(images)]


def _test(archives: Archives) -> list[Entry]:
    archive = _one_of(archives.folder, TEST)
    images = _by_stem(archives, archive, ".jpg") | _replacements(archives)
    sample = find_sample(archives.folder)
    entries = []
    for name, _ in read_rows(sample):
        stem = name.removesuffix(".jpg")
        if stem not in images:
            raise UserError(
                f"{archives.folder / archive}: no image {name!r}, which {sample.name} lists; "
                f"expected all of its images: get both files of the same release"
            )
        entries.append(Entry(stem, "test", _car(stem), images[stem], ""))
    return entries


def _by_stem(archives: Archives, archive: str, ending: str) -> dict[str, str]:
    references = [r for r in archives.members(archive) if r.endswith(ending)]
    return {base_name(reference).removesuffix(ending): reference for reference in references}


def _replacements(archives: Archives) -> dict[str, str]:
    loose = {path.stem: path.name for path in archives.folder.glob("*.jpg")}
    for path in archives.folder.glob("*.jpg.zip"):
        loose |= _by_stem(archives, path.name, ".jpg")
    return loose


def _car(stem: str) -> str:
    return stem.rpartition("_")[0]


def _one_of(folder: Path, names: tuple[str, ...]) -> str:
    there = [name for name in names if (folder / name).is_file()]
    if len(there) != 1:
        raise UserError(
            f"{folder}: found {' and '.join(there) or 'none'} of {', '.join(names)}, expected "
            f"one; check the recipe's download.files, and remove what it does not list"
        )
    return there[0]
