"""Training images decoded once: in memory, or on disk for all folds, processes and epochs."""

import dataclasses
import fcntl
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TextIO

import cv2
import numpy as np
import PIL
import simplejpeg
from tqdm import tqdm

from pipeline.support import files, fingerprint
from pipeline.support.arrays import UInt8
from pipeline.support.errors import UserError
from pipeline.train.dataset import Decoder, Pictures

NAMES = ("images.npy", "targets.npy")


class Arrays:
    """Decoded images (N, H, W, 3) and soft targets (N, H, W[, C]), uint8."""

    def __init__(self, images: UInt8, targets: UInt8) -> None:
        self._images = images
        self._targets = targets

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> tuple[UInt8, UInt8]:
        """Copies, to be changed at will, of one image (H, W, 3) and its target."""
        return np.array(self._images[position]), np.array(self._targets[position])


def open_pictures(kind: Literal["none", "ram", "disk"], decoder: Decoder, folder: Path) -> Pictures:
    """The decoder's pictures, from where `runtime.cache` says."""
    if kind == "ram":
        return in_ram(decoder)
    return on_disk(folder, decoder) if kind == "disk" else decoder


def in_ram(decoder: Decoder) -> Arrays:
    """Decode every row and keep it: 4 bytes a pixel at network size.

    Worker processes that are forked later share the memory.
    """
    images, targets = (np.empty(shape, np.uint8) for shape in _shapes(decoder))
    _decode_all(decoder, images, targets)
    return Arrays(images, targets)


def on_disk(folder: Path, decoder: Decoder) -> Arrays:
    """Decode every row into files under `folder`, or open those that are there already.

    The files' folder is named after all that decides their content (`key`), and gets its name
    when they are whole. Of two processes that want it at once, one makes it and the other
    waits. A new one replaces those of other rows or sizes.

    Raises:
        UserError: the disk has no room, or an image does not decode.
    """
    path = folder / f"cache-{key(decoder)}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".cache.lock").open("w") as lock:
        _wait_for(lock, path)
        if not _is_whole(path, decoder):
            _build(path, decoder)
        # Opened under the lock: another recipe's would replace it.
        images, targets = (np.load(path / name, mmap_mode="r") for name in NAMES)
    return Arrays(images, targets)


def key(decoder: Decoder) -> str:
    """A name that changes with whatever the decoded pixels depend on.

    Archives count by name, size and time of change. So do the sources of the code that
    decodes, by content.
    """
    libraries = (np, cv2, PIL, simplejpeg)
    versions = " ".join(library.__version__ for library in libraries)
    digest = hashlib.sha256(f"{decoder.size} {decoder.resize} {versions}".encode())
    for row in decoder.rows:
        digest.update(str(dataclasses.astuple(row)).encode())
    for path in fingerprint.sources(["data"]):
        digest.update(path.read_bytes())
    digest.update(fingerprint.state_of(decoder.archives.folder).encode())
    return digest.hexdigest()[:12]


def _shapes(decoder: Decoder) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shape = (len(decoder), *decoder.size)
    classes = {row.classes for row in decoder.rows}
    assert len(classes) == 1, f"rows of {classes} classes"
    count = classes.pop()
    return (*shape, 3), (shape if count == 1 else (*shape, count))


def _wait_for(lock: TextIO, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that decodes into {path.parent}", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _is_whole(path: Path, decoder: Decoder) -> bool:
    """Whether both files are there with the shape, type and length they must have."""
    try:
        found = [np.load(path / name, mmap_mode="r") for name in NAMES]
    except (OSError, ValueError):  # missing; cut short or no array at all
        return False
    return [(a.shape, a.dtype) for a in found] == [(s, np.uint8) for s in _shapes(decoder)]


def _build(path: Path, decoder: Decoder) -> None:
    for old in path.parent.glob("*cache-*"):  # of other settings, or half made
        shutil.rmtree(old)
    size = sum(int(np.prod(shape)) for shape in _shapes(decoder))
    files.check_space(path.parent, size, "runtime.cache: disk")
    unfinished = path.with_name(f"unfinished-{path.name}")
    unfinished.mkdir()
    images, targets = (
        np.lib.format.open_memmap(unfinished / name, mode="w+", dtype=np.uint8, shape=shape)
        for name, shape in zip(NAMES, _shapes(decoder), strict=True)
    )
    for name in NAMES:
        _reserve(unfinished / name)
    _decode_all(decoder, images, targets)
    images.flush()
    targets.flush()
    unfinished.rename(path)


def _reserve(path: Path) -> None:
    """Take the room of a file now: a mapped page that finds none ends the process unheard."""
    with path.open("rb+") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)
        except OSError as error:
            raise UserError(
                f"{path}: {error.strerror}; free some space, or set runtime.cache to none"
            ) from None


def _decode_all(decoder: Decoder, images: UInt8, targets: UInt8) -> None:
    def decode(position: int) -> None:
        images[position], targets[position] = decoder[position]

    with ThreadPoolExecutor() as pool:
        done = pool.map(decode, range(len(decoder)))
        for _ in tqdm(done, total=len(decoder), desc="decode", unit="img"):
            pass
