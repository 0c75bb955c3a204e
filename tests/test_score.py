"""`pipeline score` against a slow scorer that shares no code with it."""

import csv
import gzip
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, gif, run_verb
from PIL import Image

HEIGHT, WIDTH = 37, 53


def slow_text(mask: np.ndarray) -> str:
    """Pixel by pixel, as the competition's page describes it."""
    numbers, length = [], 0
    for position, pixel in enumerate([*mask.flatten().tolist(), 0], start=1):
        if pixel:
            length += 1
        elif length:
            numbers += [position - length, length]
            length = 0
    return " ".join(map(str, numbers))


def slow_dice(first: np.ndarray, second: np.ndarray) -> float:
    one = {tuple(place) for place in np.argwhere(first).tolist()}
    other = {tuple(place) for place in np.argwhere(second).tolist()}
    return 2 * len(one & other) / (len(one) + len(other)) if one or other else 1.0


def masks(count: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """Of every share of foreground; the first two are empty and full."""
    generator = np.random.default_rng(seed)
    shares = [0, 1, *generator.random(count - 2)]
    return {
        f"car{i}_01": generator.random((HEIGHT, WIDTH)) < share for i, share in enumerate(shares)
    }


def table(path: Path, content: dict[str, np.ndarray]) -> Path:
    rows = "".join(f"{name}.jpg,{slow_text(mask)}\n" for name, mask in content.items())
    data = f"img,rle_mask\n{rows}".encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


Done = subprocess.CompletedProcess[str]


def run(*arguments: object) -> Done:
    return run_verb("score", *map(str, arguments), at=Path())


def scored(path: Path) -> dict[str, float]:
    with path.open() as stream:
        return {row["img"]: float(row["dice"]) for row in csv.DictReader(stream)}


def refused(done: Done, *said: str) -> None:
    assert done.returncode == 1 and done.stderr.startswith("error: "), done.stderr
    assert len(done.stderr.splitlines()) == 1
    for words in said:
        assert words in done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Half of the masks as Carvana's GIFs, half as PNGs of 0 and 255."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for i, (name, mask) in enumerate(masks().items()):
        if i % 2:
            (folder / f"{name}_mask.gif").write_bytes(gif(mask.astype(np.uint8)))
        else:
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no mask")
    return folder


def test_scores_are_those_of_a_slow_scorer(tmp_path: Path, folder: Path) -> None:
    predicted = masks(seed=1)
    predicted["car0_01"] = np.zeros((HEIGHT, WIDTH), bool)  # both empty: 1
    submission = table(tmp_path / "submit.csv.gz", predicted)
    expected = {f"{name}.jpg": slow_dice(mask, masks()[name]) for name, mask in predicted.items()}
    assert expected["car0_01.jpg"] == 1

    with zipfile.ZipFile(tmp_path / "masks.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"inside/{path.name}")
    truths = table(tmp_path / "train_masks.csv", masks())
    with zipfile.ZipFile(tmp_path / "train_masks.csv.zip", "w") as archive:
        archive.write(truths, truths.name)
    for given, *size in (
        (folder,),
        (tmp_path / "masks.zip",),
        (truths, "--size", HEIGHT, WIDTH),
        (tmp_path / "train_masks.csv.zip", "--size", HEIGHT, WIDTH),
    ):
        done = run(submission, given, *size, "--out", tmp_path / "scores.csv")
        assert done.returncode == 0, done.stderr
        found = scored(tmp_path / "scores.csv")
        assert list(found) == list(expected), "in the submission's order"
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-12)
        assert f"Dice {np.mean(list(expected.values())):.6f} over 12 images" in done.stdout


def test_names_must_fit_on_both_sides(tmp_path: Path, folder: Path) -> None:
    submission = table(tmp_path / "submit.csv", dict(list(masks().items())[:3]))
    refused(run(submission, folder), "no row for 9 of 12 masks", "'car10_01'", "--partial")
    done = run(submission, folder, "--partial")
    assert "Dice 1.000000 over 3 images" in done.stdout, done.stderr
    (folder / "car1_01_mask.gif").unlink()
    refused(run(submission, folder), "row 2: 'car1_01.jpg' has no mask among the 11")
    submission.write_text("img,rle_mask\ncar0_01.jpg,\ncar0_01.jpg,\n")
    refused(run(submission, folder), "row 2: 'car0_01.jpg' for the second time")
    submission.write_text("img,rle_mask\n")
    refused(run(submission, folder, "--partial"), "found no row")


def test_masks_meet_their_rows_by_folder_where_names_repeat(tmp_path: Path) -> None:
    named = {f"p{i // 2}/a{i % 2}": mask for i, mask in enumerate(list(masks().values())[:6])}
    for name, mask in named.items():
        path = tmp_path / f"truth/{name}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    submission = table(tmp_path / "submit.csv", named)
    with zipfile.ZipFile(tmp_path / "truth.zip", "w") as archive:
        for path in (tmp_path / "truth").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path))
    for truth in (tmp_path / "truth", tmp_path / "truth.zip"):
        done = run(submission, truth)
        assert "Dice 1.000000 over 6 images" in done.stdout, done.stderr
    first = {"else/a0": named["p0/a0"], "a1": named["p0/a1"]}  # where none repeats, by name alone
    done = run(table(tmp_path / "first.csv", first), tmp_path / "truth/p0")
    assert "Dice 1.000000 over 2 images" in done.stdout, done.stderr


def test_no_file_of_another_kind_is_written_over(tmp_path: Path, folder: Path) -> None:
    submission = table(tmp_path / "submit.csv", masks())
    before = submission.read_bytes()
    refused(run(submission, folder, "--out", submission), "found a file that this command has not")
    assert submission.read_bytes() == before
    refused(run(submission, folder, "--out", tmp_path / "out"), "expected a name that ends in .csv")
    (tmp_path / "a.csv").mkdir()
    refused(run(submission, folder, "--out", tmp_path / "a.csv"), "found a folder, expected the na")
    for _ in range(2):  # its own it replaces
        assert run(submission, folder, "--out", tmp_path / "scores.csv").returncode == 0


@pytest.mark.parametrize("size", [("-4", "5"), ("0", "5"), ("9" * 19, "5"), ("x", "5")])
def test_a_size_is_of_pixels(tmp_path: Path, folder: Path, size: tuple[str, str]) -> None:
    submission = table(tmp_path / "submit.csv", masks())
    done = run(submission, submission, "--size", *size)
    assert done.returncode == 2 and "expected" in done.stderr.splitlines()[-1]


def test_a_wrong_text_or_size_names_its_row(tmp_path: Path, folder: Path) -> None:
    submission = tmp_path / "submit.csv"
    submission.write_text("img,rle_mask\ncar0_01.jpg,\ncar2_01.jpg,5 0\n")
    refused(run(submission, folder), "row 2, car2_01.jpg: token 2 of 2 is '0'", "37x53")
    large = {"car0_01": np.ones((HEIGHT + 1, WIDTH), bool)}
    refused(run(table(submission, large), folder), "row 1, car0_01.jpg", "ends by the last pixel")
    truths = table(tmp_path / "truth.csv", large)
    refused(run(submission, truths, "--size", HEIGHT, WIDTH), "truth.csv: row 1", "or --size")
    refused(run(submission, truths), "truth.csv: a table; add --size HEIGHT WIDTH")
    refused(run(submission, folder, "--size", 3, 3), "mask files; remove --size")


def test_what_is_no_mask_is_refused(tmp_path: Path, folder: Path) -> None:
    submission = table(tmp_path / "submit.csv", masks())
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "car0_01.png")
    refused(run(submission, folder), "car0_01.png: found shape (37, 53, 3)", "is it a mask?")
    (folder / "car0_01.png").write_bytes(b"no picture")
    refused(run(submission, folder), "car0_01.png: 10 bytes that are no readable picture")
    (folder / "car1_01.png").write_bytes((folder / "car2_01.png").read_bytes())
    refused(run(submission, folder), "found two masks of 'car1_01'")
    palette = io.BytesIO()
    Image.new("P", (WIDTH, HEIGHT)).save(palette, "BMP")
    damaged = bytearray(palette.getvalue())
    damaged[46:50] = (1 << 20).to_bytes(4, "little")  # colors in its palette
    (folder / "car1_01.png").unlink()
    (folder / "car0_01.png").write_bytes(damaged)
    refused(run(submission, folder), "car0_01.png: ")
    refused(run(submission, folder / "car2_01.png"), "car2_01.png: found a file of another kind")
    refused(run(submission, tmp_path / "nowhere"), "nowhere: found nothing, expected a folder or")
    (tmp_path / "empty").mkdir()
    refused(run(submission, tmp_path / "empty"), "empty: found no mask")
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    refused(run(submission, tmp_path / "bad.zip"), "bad.zip: File is not a zip file")


@pytest.mark.parametrize("values", [(0, 128, 255), (1, 2)])
def test_a_grey_picture_is_no_mask(tmp_path: Path, folder: Path, values: tuple) -> None:
    submission = table(tmp_path / "submit.csv", masks())
    grey = np.resize(np.array(values, np.uint8), (HEIGHT, WIDTH))
    Image.fromarray(grey).save(folder / "car0_01.png")
    refused(run(submission, folder), f"found shape (37, 53) with {len(values)} values")


def test_the_command_starts() -> None:
    command = [sys.executable, "-m", "pipeline", "score", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "submission masks" in done.stdout
