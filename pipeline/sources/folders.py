"""One's own pictures, whatever they show: images and masks with the same names, in two folders.

`download` has packed the two into images.zip and masks.zip, or linked archives there under
these names. `<stem>.<any ending>` pairs with `<stem><mask_ending>.<any ending>`. Where an archive
holds folders `images` and `masks`, only what is in them counts, so that one archive can be
both. There is no test set.
"""

import re
from collections import Counter
from pathlib import PurePosixPath

from pipeline.data.archives import SEPARATOR, Archives, member_name
from pipeline.data.samples import Entry, Label, parsed
from pipeline.recipe.schema import FolderSource
from pipeline.support.errors import UserError

ENDINGS = {
    ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
}  # fmt: skip
IMAGES, MASKS = "images.zip", "masks.zip"


def read_entries(archives: Archives, settings: FolderSource) -> list[Entry]:
    """All images, in the order of their names.

    Raises:
        UserError: an image has no mask or a mask no image, two have one name, or a name does
            not show its group.
    """
    images, masks = pair(
        _members(archives, IMAGES), _members(archives, MASKS), settings.mask_ending
    )
    if odd := images.keys() ^ masks.keys():
        without = min(images.keys() - masks.keys(), default=None)
        which = f"{without!r} has no mask" if without else f"{min(odd)!r} has no image"
        raise UserError(
            f"{archives.folder}: {len(odd)} of {len(images | masks)} names stand alone, the first: "
            f"{which}; expected for each image a mask called as it is and {settings.mask_ending!r} "
            f"(split.source.mask_ending): add what is missing, or take the others away"
        )
    labels = tuple(Label(name, parsed(str(value))) for name, value in settings.classes.items())
    return [
        Entry(
            stem, "train", _group(stem, images[stem], settings.group),
            f"{IMAGES}{SEPARATOR}{images[stem]}", f"{MASKS}{SEPARATOR}{masks[stem]}",
            labels=labels,
        )
        for stem in sorted(images)
    ]  # fmt: skip


def pair(images: list[str], masks: list[str], mask_ending: str) -> tuple[dict[str, str], ...]:
    """The names of images and of masks, by what is common to both.

    That is the name without folders and endings, or where two have the same one, without
    endings alone. Masks that lie among the images are told from them by `mask_ending`.

    Returns:
        Two dicts; what stands in one alone has no partner.

    Raises:
        UserError: two images have one name even so.
    """
    if mask_ending:
        images = [name for name in images if not PurePosixPath(name).stem.endswith(mask_ending)]
        masks = [name for name in masks if PurePosixPath(name).stem.endswith(mask_ending)]
    flat = all(
        len({PurePosixPath(name).stem for name in names}) == len(names) for names in (images, masks)
    )
    found = []
    for names, ending in ((images, ""), (masks, mask_ending)):
        stems = [_stem(name, flat).removesuffix(ending) for name in names]
        stem, count = Counter(stems).most_common(1)[0] if stems else ("", 0)
        if count > 1:
            same = [name for name, other in zip(names, stems, strict=True) if other == stem]
            raise UserError(
                f"{', '.join(same[:3])}: found {count} files whose name is {stem!r} but for folder "
                f"or ending, expected one of each; rename all but one, or take them away"
            )
        found.append(dict(zip(stems, names, strict=True)))
    return tuple(found)


def pictures(names: list[str], folder: str) -> list[str]:
    """Those that are pictures by their endings; where some are in a `folder`, those alone."""
    shown = [name for name in names if PurePosixPath(name).suffix.lower() in ENDINGS]
    inside = [name for name in shown if folder in PurePosixPath(name).parts[:-1]]
    return inside or shown


def _members(archives: Archives, archive: str) -> list[str]:
    names = [member_name(reference) for reference in archives.members(archive)]
    found = pictures(names, archive.removesuffix(".zip"))
    if not found:
        raise UserError(
            f"{archives.folder / archive}: found no picture; it holds {archives.glimpse()}; "
            f"expected files that end in {', '.join(sorted(ENDINGS))}"
        )
    return found


def _stem(name: str, flat: bool) -> str:
    path = PurePosixPath(name)
    if flat:
        return path.stem
    parts = [part for part in path.parts[:-1] if part not in ("images", "masks")]
    return "_".join([*parts, path.stem])


def _group(stem: str, name: str, pattern: str) -> str:
    """The group of an image: an expression with a slash looks at its folders, too."""
    if pattern == "none":
        return stem
    shown = str(PurePosixPath(name).with_suffix("")) if "/" in pattern else stem
    found = re.search(pattern, shown)
    if not found or not found[1]:
        raise UserError(
            f"split.source.group: found the image {shown!r}, in whose name the expression "
            f"{pattern!r} finds nothing; expected each image to show its group, or none"
        )
    return found[1]
