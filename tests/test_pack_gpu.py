"""What travels to a GPU machine in parts arrives whole, in any number of copies."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

SCRIPT = ROOT / "benchmarks/pack_gpu.py"
MIB = 1 << 20
SIZES = {"test.zip": 2.5, "sample_submission.csv.zip": 0.01, "train_masks.zip": 0.5, "train.zip": 5}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True)


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    folder = tmp_path / "archives"
    folder.mkdir()
    for number, (name, mib) in enumerate(SIZES.items()):
        data = np.random.default_rng(number).bytes(int(mib * MIB))
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def packs(archives: Path, tmp_path: Path) -> list[Path]:
    out = tmp_path / "packs"
    done = run("pack", "--archives", archives, "--out", out, "--mib", 4, "--wheels")
    assert done.returncode == 0, done.stderr
    folders = sorted(out.iterdir())
    assert len(folders) > 2
    for folder in folders:
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 4 * MIB
    return folders


def joined(state: Path, name: str) -> bytes:
    (path,) = state.glob(f"data/competitions/*/{name}")
    return path.read_bytes()


def arrive(folder: Path, tmp_path: Path) -> Path:
    """One copy holds one folder, as a bare machine sees it."""
    copy = tmp_path / f"copy-{folder.name}"
    copy.mkdir(exist_ok=True)
    if not (copy / folder.name).exists():
        (copy / folder.name).symlink_to(folder)
    return copy


def test_parts_arrive_one_folder_at_a_time(
    archives: Path, packs: list[Path], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    for folder in packs:
        done = run("join", "--packs", arrive(folder, tmp_path), "--state", state)
        assert done.returncode == 0, done.stderr
    for name in SIZES:
        assert joined(state, name) == (archives / name).read_bytes(), name
    again = run("join", "--packs", arrive(packs[0], tmp_path), "--state", state)
    assert again.returncode == 0
    assert joined(state, "train.zip") == (archives / "train.zip").read_bytes(), "nothing twice"


def test_a_part_that_comes_too_early_waits(
    archives: Path, packs: list[Path], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    for folder in reversed(packs):
        assert run("join", "--packs", arrive(folder, tmp_path), "--state", state).returncode == 0
    for name in SIZES:
        assert joined(state, name) == (archives / name).read_bytes(), name


def test_what_a_stopped_call_wrote_is_cut_off(
    archives: Path, packs: list[Path], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    for folder in packs[:-1]:
        run("join", "--packs", arrive(folder, tmp_path), "--state", state)
    (path,) = state.glob("data/competitions/*/train.zip")
    with path.open("ab") as stream:
        stream.write(b"half a part")
    run("join", "--packs", arrive(packs[-1], tmp_path), "--state", state)
    assert joined(state, "train.zip") == (archives / "train.zip").read_bytes()


def test_a_damaged_part_is_named(packs: list[Path], tmp_path: Path) -> None:
    name = next(iter(json.loads((packs[0] / "parts.json").read_text())))
    data = bytearray((packs[0] / name).read_bytes())
    data[7] ^= 1
    (packs[0] / name).write_bytes(data)
    done = run("join", "--packs", packs[0].parent, "--state", tmp_path / "state")
    assert done.returncode == 1 and f"{name}: damaged on its way" in done.stderr


def test_missing_archives_are_named(tmp_path: Path) -> None:
    done = run("pack", "--archives", tmp_path, "--out", tmp_path / "out", "--wheels")
    assert done.returncode == 1 and "found no test.zip" in done.stderr


def test_results_are_cut_into_parts_that_make_the_whole(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(int(2.5 * MIB))
    (tmp_path / "model.pt").write_bytes(data)
    done = run("cut", tmp_path / "model.pt", "--out", tmp_path / "out", "--mib", 1)
    assert done.returncode == 0, done.stderr
    parts = sorted((tmp_path / "out").iterdir())
    assert [part.name for part in parts] == ["model.pt.01", "model.pt.02", "model.pt.03"]
    assert b"".join(part.read_bytes() for part in parts) == data
