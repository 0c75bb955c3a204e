"""What a stage's result depends on: its code, by folder, and a name for it all.

`CODE` is the one place that says which code can change which result. `dvc.yaml` repeats it as
deps, a half-finished run is found again by it, and a test holds imports and `dvc.yaml` to it: a
stage imports only what stands here, and support (with `recipe/`, `paths.py`), which can change
no result. So mending a message there leaves every trained fold valid.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.support.errors import UserError

PACKAGE = Path(__file__).parents[1]

CODE = {
    "download": ("download", "kaggle"),
    "split": ("split.py", "data", "sources"),
    "train": ("train", "augmentation.py", "data", "levels", "metrics", "networks"),
    "validate": ("validate.py", "data", "evaluation", "levels", "masks", "metrics", "networks"),
    "blend": ("blend.py", "data", "evaluation", "levels", "masks", "metrics"),
    "tune": ("tune", "data", "evaluation", "levels", "masks", "metrics"),
    "predict": ("predict.py", "data", "levels", "networks"),
    "encode": ("encode.py", "data", "evaluation", "levels", "masks"),
    "report": ("report", "data", "evaluation", "levels", "masks", "metrics"),
}


def key(stage: str, settings: str, files: Iterable[Path], archives: Path) -> str:
    """A name that changes with whatever the result of a stage depends on.

    Args:
        stage: whose code counts, as `CODE` has it.
        settings: all that was set, as text.
        files: read whole, like `samples.csv`.
        archives: a folder whose files count by name, size and time of change.
    """
    digest = hashlib.sha256(settings.encode())
    for path in [*files, *sources(CODE[stage])]:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    digest.update(state_of(archives).encode())
    return digest.hexdigest()[:12]


def sources(places: Iterable[str]) -> list[Path]:
    """The files of code in folders and files of this package."""
    paths = (PACKAGE / place for place in places)
    return [file for path in paths for file in (sorted(path.rglob("*.py")) or [path])]


def state_of(archives: Path) -> str:
    """What tells a folder of archives from another unread: names, sizes, times of change."""
    try:
        found = [(path.name, path.stat()) for path in sorted(archives.iterdir())]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: missing; run the download stage first") from None
    return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in found)
