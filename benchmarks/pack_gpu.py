"""Pack what a GPU machine without a network needs, in folders small enough to be copied there.

    python benchmarks/pack_gpu.py pack --archives DIR --out gpu-pack     here, with a network
    bash benchmarks/on_gpu.sh STEP                                       there, a folder at a time

`pack` writes gpu-pack/1, gpu-pack/2, ... of at most `--mib` MiB each: wheels for the machine's
Python first, with `test.zip`, so that prediction can be timed after the first copy; then the
rest of the archives, cut into parts. `join` (called by `on_gpu.sh`) checks each part's hash and
puts together what has arrived so far, in any number of calls. `cut` does to results what `pack`
does to archives: files of at most `--mib` MiB.

Standard library only: it runs before anything is installed.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

MIB = 1 << 20
LIST = "parts.json"  # in each folder: what its files are parts of
SLUG = "carvana-image-masking-challenge"
ARCHIVES = ("test.zip", "sample_submission.csv.zip", "train_masks.zip", "train.zip")
# What a machine with torch, numba, OpenCV, Pillow, pandas and scikit-learn lacks; the versions are
# those of constraints.txt.
WHEELS = (
    "albucore", "albumentations", "annotated-types", "google-crc32c", "isal", "lightning-fabric",
    "lightning-utilities", "pydantic", "pydantic_core", "ruamel.yaml", "ruamel.yaml.clib",
    "segmentation_models_pytorch", "simplejpeg", "simsimd", "stringzilla", "timm",
    "typing-inspection", "typing_extensions",
)  # fmt: skip
PLATFORMS = (
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_24",
    "manylinux_2_17",
    "manylinux2014",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    one = actions.add_parser("pack", help="write the numbered folders")
    one.add_argument("--archives", type=Path, required=True, help="folder of the competition's")
    one.add_argument("--out", type=Path, required=True, help="outside the repository, or ignored")
    one.add_argument("--python", default="3.12", help="version of the machine's Python")
    one.add_argument("--mib", type=int, default=60, help="the most a folder may hold")
    one.add_argument("--wheels", nargs="*", default=WHEELS, help="packages the machine lacks")
    one = actions.add_parser("join", help="put together what has arrived")
    one.add_argument("--packs", type=Path, required=True, help="folder of numbered folders")
    one.add_argument("--state", type=Path, required=True, help="where joined files go")
    one = actions.add_parser("cut", help="cut files into parts")
    one.add_argument("files", type=Path, nargs="+")
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--mib", type=int, default=15)
    args = parser.parse_args(arguments)
    if args.action == "pack":
        pack(args.archives, args.out, args.python, args.mib * MIB, args.wheels)
    elif args.action == "join":
        join(args.packs, args.state)
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        for file in args.files:
            for number, piece in enumerate(pieces(file, args.mib * MIB), start=1):
                (args.out / f"{file.name}.{number:02d}").write_bytes(piece)


def pack(archives: Path, out: Path, python: str, limit: int, wheels: Sequence[str]) -> None:
    """Write the numbered folders, none larger than `limit` bytes."""
    missing = [name for name in ARCHIVES if not (archives / name).is_file()]
    if missing:
        sys.exit(
            f"error: {archives}: found no {', '.join(missing)}; give the folder that holds them"
        )
    if out.exists():
        sys.exit(f"error: {out}: is there already; remove it, or give another folder")
    first = out / "1"
    (first / "wheels").mkdir(parents=True)
    if wheels:
        fetch_wheels(first / "wheels", python, wheels)
    number, room, parts = 1, limit - size(first) - MIB, {}
    for name in ARCHIVES:
        place = f"competitions/{SLUG}/{name}"
        for index, piece in enumerate(pieces(archives / name, limit // 12)):
            if len(piece) > room:
                write_list(out / str(number), parts)
                number, room, parts = number + 1, limit - MIB, {}
                (out / str(number)).mkdir()
            file = f"{name}.{index:03d}"
            (out / str(number) / file).write_bytes(piece)
            parts[file] = {"of": place, "index": index, "sha256": digest(piece)}
            room -= len(piece)
    write_list(out / str(number), parts)
    for folder in sorted(out.iterdir(), key=lambda path: int(path.name)):
        print(f"{folder}: {size(folder) / MIB:.1f} MiB")


def fetch_wheels(folder: Path, python: str, wheels: Sequence[str]) -> None:
    """Download wheels for another machine, each at the version of constraints.txt."""
    constraints = Path(__file__).resolve().parent.parent / "constraints.txt"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for platform in PLATFORMS:
        command += ["--platform", f"{platform}_x86_64"]
    if subprocess.run([*command, "-c", str(constraints), *wheels]).returncode:
        sys.exit("error: pip could not download the wheels, see above; nothing was packed whole")


def join(packs: Path, state: Path) -> None:
    """Check what has arrived, append it to what is there, say what is whole and what is not.

    Parts of one file are appended in order; one that comes too early waits for the others.
    """
    waiting = state / "waiting"
    waiting.mkdir(parents=True, exist_ok=True)
    for folder in sorted(packs.iterdir()):
        if not (folder / LIST).is_file():
            continue
        if (folder / "wheels").is_dir():
            shutil.copytree(folder / "wheels", state / "wheels", dirs_exist_ok=True)
        for name, part in json.loads((folder / LIST).read_text()).items():
            data = (folder / name).read_bytes()
            if digest(data) != part["sha256"]:
                sys.exit(f"error: {folder / name}: damaged on its way; copy this folder again")
            (waiting / name).write_bytes(data)
            (waiting / f"{name}.json").write_text(json.dumps(part))
    found = [
        (path.with_suffix(""), json.loads(path.read_text())) for path in waiting.glob("*.json")
    ]
    for path, part in sorted(found, key=lambda item: (item[1]["of"], item[1]["index"])):
        target = state / "data" / part["of"]
        mark = target.with_name(f"{target.name}.done")  # parts, and bytes of them
        target.parent.mkdir(parents=True, exist_ok=True)
        done, length = map(int, mark.read_text().split()) if mark.exists() else (0, 0)
        if part["index"] == done:
            with target.open("r+b" if done else "wb") as stream:
                stream.truncate(length)  # what a stopped call wrote behind it
                stream.seek(length)
                length += stream.write(path.read_bytes())
            mark.write_text(f"{done + 1} {length}")
        if part["index"] <= done:
            path.unlink()
            path.with_name(f"{path.name}.json").unlink()
    for target in sorted((state / "data").rglob("*.zip")):
        print(f"{target}: {target.stat().st_size:,} bytes so far")


def pieces(path: Path, length: int) -> Iterator[bytes]:
    """The bytes of a file, `length` at a time."""
    with path.open("rb") as stream:
        while piece := stream.read(length):
            yield piece


def write_list(folder: Path, parts: dict[str, dict[str, object]]) -> None:
    (folder / LIST).write_text(json.dumps(parts, indent=1))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
