import os
import random
from pathlib import Path

from pipeline import fingerprint


def test_the_key_is_all_that_the_result_depends_on(tmp_path: Path) -> None:
    rows, raw = tmp_path / "samples.csv", tmp_path / "raw"
    raw.mkdir()
    archive = raw / "train.zip"
    rows.write_text("rows")
    archive.write_text("archive")

    def key(settings: str = "settings") -> str:
        return fingerprint.key(settings, [rows], raw)

    first = key()
    assert first == key()
    assert first != key("other settings")
    rows.write_text("other rows")
    second = key()
    assert second != first
    os.utime(archive, ns=(1, random.Random(0).getrandbits(50)))
    assert key() != second


def test_the_key_counts_the_code(tmp_path: Path) -> None:
    sources = fingerprint._loaded_sources()
    assert Path(fingerprint.__file__) in sources
    assert all(path.suffix == ".py" and "pipeline" in path.parts for path in sources)
