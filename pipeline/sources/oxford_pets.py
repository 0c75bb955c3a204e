"""Oxford-IIIT Pet: 7,390 cats and dogs with trimaps.

`images/images/<breed>_<number>.jpg` pairs with
`annotations/annotations/trimaps/<breed>_<number>.png`, whose pixels are 1 (pet), 2
(background) and 3 (border: the outline, and what is uncertain). Archive of
devdgohil/the-oxfordiiit-pet-dataset. There is no test set here, and which pictures show the
same animal is not known: each is its own group.
"""

from pipeline.data.archives import Archives, base_name
from pipeline.data.samples import Entry, Label
from pipeline.support.errors import UserError

ARCHIVE = "the-oxfordiiit-pet-dataset.zip"
LABELS = (Label("background", 2), Label("pet", 1), Label("border", 3))


def read_entries(archives: Archives) -> list[Entry]:
    """All pictures, in the order of their names.

    Raises:
        UserError: the archive is missing, or a picture has no trimap or a trimap no picture.
    """
    members = archives.members(ARCHIVE)
    images = _by_stem([r for r in members if r.endswith(".jpg")])
    trimaps = _by_stem([r for r in members if "/trimaps/" in r and r.endswith(".png")])
    if odd := images.keys() ^ trimaps.keys():
        raise UserError(
            f"{archives.folder / ARCHIVE}: {len(odd)} of {len(images | trimaps)} pets have no "
            f"trimap or no picture, the first is {min(odd)!r}; delete the archive and run the "
            f"download stage again"
        )
    return [
        Entry(stem, "train", stem, images[stem], trimaps[stem], labels=LABELS)
        for stem in sorted(images)
    ]


def _by_stem(references: list[str]) -> dict[str, str]:
    return {base_name(reference).rpartition(".")[0]: reference for reference in references}
