"""Downloads from a Kaggle on 127.0.0.1, as tests of several files make them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kaggle_server import COMPETITION, noise, zipped

from pipeline.download.stage import download
from pipeline.kaggle.retry import RetryPolicy
from pipeline.recipe.schema import Competition, Dataset, Synthetic

QUICK = RetryPolicy(attempts=3, first_pause=0.01, longest_pause=0.02, connect=2, read=0.5)
DATA = zipped({"train/a.jpg": noise(1_500_000), "train/b.jpg": noise(1_500_000, 1)})
OTHER = zipped({"train/a.jpg": noise(1_500_000, 2), "train/b.jpg": noise(1_500_000, 3)})
SMALL = zipped({"a.csv": noise(5_000)})


def wanted(*files: str, optional: tuple[str, ...] = (), slug: str = COMPETITION) -> Competition:
    return Competition(kind="competition", slug=slug, files=files, optional_files=optional)


def get(
    section: Synthetic | Competition | Dataset,
    data: Path,
    recipe: str = "mine",
    local: Path | None = None,
    policy: RetryPolicy = QUICK,
) -> list[Path]:
    """Run the stage in a folder laid out as the project's `data/`."""
    return download(
        section, (data / "archives", data / recipe / "raw"), local, policy, lambda: None
    )


def fetch(data: Path, *files: str, policy: RetryPolicy = QUICK) -> list[Path]:
    """Get files of the competition, or else its `train.zip`."""
    return get(wanted(*(files or ("train.zip",))), data, policy=policy)


def origin(data: Path) -> Path:
    """Where the competition's archives are kept."""
    return data / "archives/competitions" / COMPETITION


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def program(data: Path, *files: str) -> list[str]:
    """A process of its own that fetches files, as the command does, without loading torch."""
    code = f"""
import pathlib, sys
from pipeline.download import stage
from pipeline.kaggle.retry import RetryPolicy
from pipeline.recipe.schema import Competition
from pipeline.support.errors import command
section = Competition(kind="competition", slug="{COMPETITION}", files={files!r}, optional_files=())
data = pathlib.Path(sys.argv[1])
places = data / "archives", data / "mine/raw"
command(stage.download)(section, places, None, RetryPolicy(), lambda: None)
"""
    return [sys.executable, "-c", code, str(data)]


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[Any], seconds: float = 90
) -> None:
    """Wait for what a process is to do, but not for one that has ended."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the process ended with code {process.returncode}"
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


REAL = Path(os.environ.get("PIPELINE_DATA", "/nowhere"), "competitions", COMPETITION)
