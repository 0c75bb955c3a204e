"""LGG MRI segmentation: slices of 110 patients with a lower-grade glioma, one file each.

`<patient>_<slice>.tif` (three MR sequences as RGB, FLAIR in the middle) pairs with
`<patient>_<slice>_mask.tif` (0 and 255); the group is the patient. The archive of
mateuszbuda/lgg-mri-segmentation holds its folder twice; of two files of one name the one
less deep in folders is used. There is no test set.
"""

from pipeline.data.archives import Archives, base_name
from pipeline.data.samples import Entry, Label
from pipeline.support.errors import UserError

ARCHIVE = "lgg-mri-segmentation.zip"
LABELS = (Label("background", 0), Label("lesion", 255))
_MASK = "_mask"


def read_entries(archives: Archives) -> list[Entry]:
    """All slices, patient by patient, in their order in the head.

    Raises:
        UserError: the archive is missing, or a slice has no mask or a mask no slice.
    """
    deepest_first = sorted(archives.members(ARCHIVE), key=lambda r: r.count("/"), reverse=True)
    files = {
        base_name(reference).removesuffix(".tif"): reference
        for reference in deepest_first
        if reference.endswith(".tif")
    }
    slices = {stem for stem in files if not stem.endswith(_MASK)}
    masks = {stem.removesuffix(_MASK) for stem in files.keys() - slices}
    if odd := slices ^ masks:
        raise UserError(
            f"{archives.folder / ARCHIVE}: {len(odd)} of {len(slices | masks)} slices have no "
            f"mask or no image, the first is {min(odd)!r}; delete the archive and run the "
            f"download stage again"
        )
    return [
        Entry(stem, "train", _patient(stem), files[stem], files[stem + _MASK], labels=LABELS)
        for stem in sorted(slices, key=lambda stem: (_patient(stem), _number(stem)))
    ]


def _patient(stem: str) -> str:
    return stem.rpartition("_")[0]


def _number(stem: str) -> int:
    return int(stem.rpartition("_")[2])
