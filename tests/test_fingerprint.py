import os
import random
import shutil
from pathlib import Path

import pytest

from pipeline.support import fingerprint


def test_the_key_is_all_that_the_result_depends_on(tmp_path: Path) -> None:
    rows, raw = tmp_path / "samples.csv", tmp_path / "raw"
    raw.mkdir()
    archive = raw / "train.zip"
    rows.write_text("rows")
    archive.write_text("archive")

    def key(settings: str = "settings") -> str:
        return fingerprint.key("train", settings, [rows], raw)

    first = key()
    assert first == key()
    assert first != key("other settings")
    rows.write_text("other rows")
    second = key()
    assert second != first
    os.utime(archive, ns=(1, random.Random(0).getrandbits(50)))
    assert key() != second


def test_the_key_counts_the_code_that_changes_the_result_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, raw = tmp_path / "pipeline", tmp_path / "raw"
    raw.mkdir()
    shutil.copytree(fingerprint.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "PACKAGE", package)

    def key_after_a_change_of(name: str) -> str:
        with (package / name).open("a") as stream:
            stream.write("# mended\n")
        return fingerprint.key("train", "settings", [], raw)

    first = fingerprint.key("train", "settings", [], raw)
    for harmless in (
        "support/errors.py",
        "support/progress.py",
        "report/page.py",
        "recipe/read.py",
    ):
        assert key_after_a_change_of(harmless) == first, harmless
    for path in ("train/loss.py", "data/images.py", "networks/unet.py"):
        before, first = first, key_after_a_change_of(path)
        assert first != before, path
