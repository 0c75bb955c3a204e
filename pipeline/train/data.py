"""Training data: images decoded once, augmented draws of them, and the batches of an epoch.

Pixels stay (H, W, 3) uint8 until they are on the device that computes: a quarter of the bytes
to move, and normalizing there costs nothing beside the network.
"""

import dataclasses
import hashlib
import math
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import PIL
import simplejpeg
import torch
from isal import isal_zlib
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from pipeline.augmentation import Augmentation
from pipeline.data.archives import Archives
from pipeline.data.images import read_image, read_mask, resize_image, soft_target
from pipeline.data.samples import Sample
from pipeline.recipe.schema import Resize
from pipeline.support import files, fingerprint, hardware
from pipeline.support.arrays import Size, UInt8
from pipeline.support.errors import UserError

Draw = tuple[int, int]  # index of a row, seed of its augmentation

PREFETCH = 4  # batches that each loader process prepares ahead


# --- Decoded images: made each time, or kept in memory or on disk.


class Images(Protocol):
    """Images (H, W, 3) and soft targets at network size, uint8, by position in `rows`.

    Targets are as `pipeline.data.images.soft_target` makes them: (H, W), or (H, W, C) of C classes.
    """

    rows: Sequence[Sample]

    def __getitem__(self, position: int) -> tuple[UInt8, UInt8]: ...


class Joined:
    """The images of `first`, then those of `second`."""

    def __init__(self, first: Images, second: Images) -> None:
        self.rows: Sequence[Sample] = [*first.rows, *second.rows]
        self._first, self._second, self._count = first, second, len(first.rows)

    def __getitem__(self, position: int) -> tuple[UInt8, UInt8]:
        if position < self._count:
            return self._first[position]
        return self._second[position - self._count]


class Decoder:
    """Rows of images and masks, decoded each time they are asked for."""

    def __init__(
        self,
        rows: Sequence[Sample],
        archives: Archives,
        size: Size,
        resize: Resize,
        target: Resize = "area",
    ) -> None:
        """Resize images by `resize`, masks by `target`."""
        self.rows = rows
        self.archives = archives
        self.size = size
        self.resize: Resize = resize
        self.target: Resize = target

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[UInt8, UInt8]:
        """Image (H, W, 3) and soft target (H, W) or (H, W, C), uint8, of one row."""
        row = self.rows[position]
        image = read_image(self.archives, row)
        mask = read_mask(self.archives, row)
        target = soft_target(mask, self.size, row.classes, self.target)
        return resize_image(image, self.size, self.resize), target


class Cached:
    """A decoder's images, kept as arrays (N, H, W, 3) and (N, H, W[, C]).

    Each pair is checked against its checksum before it is used; one that was damaged (on a
    disk) is said and decoded again.
    """

    def __init__(
        self, decoder: Decoder, images: UInt8, targets: UInt8, checksums: npt.NDArray[np.uint32]
    ) -> None:
        self.rows = decoder.rows
        self._decoder = decoder
        self._images = images
        self._targets = targets
        self._checksums = checksums

    def __getitem__(self, position: int) -> tuple[UInt8, UInt8]:
        """Copies, to be changed at will, of one image (H, W, 3) and its target."""
        image, target = np.array(self._images[position]), np.array(self._targets[position])
        if checksum(image, target) == self._checksums[position]:
            return image, target
        tqdm.write(
            f"{self.rows[position].image}: its decoded copy in the cache is damaged; decoding it "
            f"again (delete the folder cache-* under work/ to make all anew)"
        )
        return self._decoder[position]


def checksum(image: UInt8, target: UInt8) -> int:
    """CRC-32 of an image's and its target's pixels; by isal, a third of a millisecond at 1024²."""
    found: int = isal_zlib.crc32(target.data, isal_zlib.crc32(image.data))
    return found


@dataclasses.dataclass(frozen=True)
class Cache:
    """Where decoded images are kept: `runtime.cache`, for the sizes of all phases of a run."""

    kind: Literal["none", "ram", "disk"]
    folder: Path  # of caches on disk, one a size
    rows: Sequence[Sample]
    archives: Archives
    resize: Resize
    sizes: Sequence[Size]
    target: Resize = "area"
    processes: int = 1  # on this machine: in memory, each has its own

    def at(self, size: Size) -> Images:
        """The images at one size, decoded now if they are not there.

        In memory they take 4 bytes a pixel, and go when nobody holds them; processes that are
        forked later share them.

        Raises:
            UserError: disk or memory has no room, or an image does not decode.
        """
        decoder = self._decoder(size)
        if self.kind == "ram":
            return in_ram(decoder, self.processes)
        if self.kind == "disk":
            return on_disk(self.folder, decoder, {key(self._decoder(one)) for one in self.sizes})
        return decoder

    def _decoder(self, size: Size) -> Decoder:
        return Decoder(self.rows, self.archives, size, self.resize, self.target)


def in_ram(decoder: Decoder, processes: int = 1) -> Cached:
    """Decode every row and keep it, as so many `processes` of this machine do at once.

    Raises:
        UserError: the memory has no room, or an image does not decode.
    """
    needed = processes * sum(math.prod(shape) for shape in _shapes(decoder))
    hardware.check_cache_fits(needed, len(decoder))
    images, targets = (np.empty(shape, np.uint8) for shape in _shapes(decoder))
    return Cached(decoder, images, targets, _decode_all(decoder, images, targets))


_NAMES = ("images.npy", "targets.npy", "checksums.npy")


def on_disk(folder: Path, decoder: Decoder, keep: Iterable[str] = ()) -> Cached:
    """Decode every row into files under `folder`, or open those that are there already.

    The files' folder is named after all that decides their content (`key`), and gets its name
    when they are whole. Of two processes that want it at once, one makes it and the other
    waits. A new one replaces those whose key is not in `keep`.

    Raises:
        UserError: the disk has no room, or an image does not decode.
    """
    path = folder / f"cache-{key(decoder)}"
    waiting = f"waiting for another process that decodes into {folder}"
    with files.locked(folder / "cache", waiting):
        if not _is_whole(path, decoder):
            _build(path, decoder, {path.name, *(f"cache-{name}" for name in keep)})
        # Opened under the lock: another recipe's would replace it.
        images, targets = (np.load(path / name, mmap_mode="r") for name in _NAMES[:2])
        return Cached(decoder, images, targets, np.load(path / _NAMES[2]))


def key(decoder: Decoder) -> str:
    """A name that changes with whatever the decoded pixels depend on.

    Archives count by name, size and time of change. So do the sources of the code that
    decodes, by content.
    """
    libraries = (np, cv2, PIL, simplejpeg)
    versions = " ".join(library.__version__ for library in libraries)
    how = f"{decoder.size} {decoder.resize} {decoder.target} {versions}"
    digest = hashlib.sha256(how.encode())
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


def _is_whole(path: Path, decoder: Decoder) -> bool:
    """Whether all files are there with the shape, type and length they must have."""
    try:
        found = [np.load(path / name, mmap_mode="r") for name in _NAMES]
    except (OSError, ValueError):  # missing; cut short or no array at all
        return False
    expected = [(shape, np.uint8) for shape in _shapes(decoder)] + [((len(decoder),), np.uint32)]
    return [(array.shape, array.dtype) for array in found] == expected


def _build(path: Path, decoder: Decoder, keep: set[str]) -> None:
    files.make_folder(path.parent)
    for old in path.parent.glob("*cache-*"):
        if old == path:
            print(f"{path}: damaged; decoding all images again", flush=True)
        if old == path or old.name not in keep:  # of other settings, or half made
            shutil.rmtree(old)
    size = sum(int(np.prod(shape)) for shape in _shapes(decoder))
    files.check_space(path.parent, size, "runtime.cache: disk")
    unfinished = path.with_name(f"unfinished-{path.name}")
    unfinished.mkdir()
    images, targets = (
        np.lib.format.open_memmap(unfinished / name, mode="w+", dtype=np.uint8, shape=shape)
        for name, shape in zip(_NAMES[:2], _shapes(decoder), strict=True)
    )
    for name in _NAMES[:2]:
        _reserve(unfinished / name)
    np.save(unfinished / _NAMES[2], _decode_all(decoder, images, targets))
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


def _decode_all(decoder: Decoder, images: UInt8, targets: UInt8) -> npt.NDArray[np.uint32]:
    """Fill both arrays; the checksum of each pair."""

    def decode(position: int) -> int:
        image, target = decoder[position]
        images[position], targets[position] = image, target
        return checksum(image, target)

    with ThreadPoolExecutor() as pool:
        done = pool.map(decode, range(len(decoder)))
        title = f"decode {decoder.size[0]}x{decoder.size[1]}"
        each = tqdm(done, total=len(decoder), desc=title, unit="img")
        return np.fromiter(each, np.uint32, len(decoder))


# --- Draws of an epoch, and how they are loaded.


class TrainingSet(Dataset[tuple[UInt8, UInt8, int]]):
    """Augmented images and soft targets, drawn by (index, seed).

    Of N rows, indices from N on are the same rows left-right, from 2 N on upside-down.
    """

    def __init__(self, rows: Sequence[Sample], images: Images, augment: Augmentation) -> None:
        """Draw from `rows`, which are some of the images' rows."""
        self.rows = rows
        self._positions = positions(rows, images)
        self._images = images
        self._augment = augment

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, draw: Draw) -> tuple[UInt8, UInt8, int]:
        """Image (H, W, 3) and target, uint8 0..255, at network size, and the row's index."""
        (flip, index), seed = divmod(draw[0], len(self)), draw[1]
        image, target = self._images[self._positions[index]]
        if flip:
            axis = 1 if flip == 1 else 0
            image, target = (np.flip(one, axis).copy() for one in (image, target))
        return *self._augment(image, target, seed), index


def positions(rows: Sequence[Sample], images: Images) -> list[int]:
    """Where each of `rows` stands among the images."""
    places = {row.sample_id: place for place, row in enumerate(images.rows)}
    return [places[row.sample_id] for row in rows]


class Share(NamedTuple):
    """Of each batch, which part is this process's."""

    process: int = 0
    processes: int = 1
    here: int = 1  # of them on this machine


class Extra(NamedTuple):
    """Rows that follow after the others, and how many of them are drawn into each epoch."""

    rows: int
    drawn: int


class Shuffle(Sampler[list[Draw]]):
    """One epoch's batches of draws: rows and seeds that follow from (seed, epoch).

    Without `chances` the rows are a permutation; with them, each draw has the chances given,
    and a row can come up several times or not at all. Extra rows are mixed among them: others
    in each epoch, none twice before all have been there once.

    An epoch is whole steps of `accumulate` batches: incomplete ones are left out (their rows
    come up in other epochs), unless there is no other. Without `drop_last` the rest is a smaller
    batch (of several processes, as much of it as they share equally). Each process gets its
    share of every batch, so what is learned does not depend on their number.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int,
        *,
        accumulate: int = 1,
        drop_last: bool = True,
        chances: npt.NDArray[np.float64] | None = None,
        extra: Extra | None = None,
        share: Share = Share(),  # noqa: B008 - it never changes
    ) -> None:
        """Shuffle `rows` rows; all processes get equal shares of each batch."""
        drawn = rows + (extra.drawn if extra else 0)
        self.epoch = 0
        self.first = 0  # batches left out, being done already
        self.batch_size = min(batch_size, drawn)
        self.accumulate = min(accumulate, drawn // self.batch_size)
        self.steps = drawn // (self.batch_size * self.accumulate)
        used = drawn - drawn % share.processes
        if not drop_last and used > self.steps * self.batch_size:
            self.steps += 1
        self._used = min(used, self.steps * self.batch_size * self.accumulate)
        self._rows = rows
        self._extra = extra
        self._chances = chances
        self._seed = seed
        self.share = share

    def __len__(self) -> int:
        return self.steps * self.accumulate - self.first

    @property
    def images(self) -> int:
        """How many are to come in this epoch, over all processes."""
        return self._used - self.first * self.batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = np.random.default_rng([self._seed, self.epoch])
        if self._chances is None:
            order = generator.permutation(self._rows)
        else:
            order = generator.choice(self._rows, size=self._rows, p=self._chances)
        if self._extra:
            others = self._rows + self._draw_extra(self._extra)
            order = generator.permutation(np.concatenate([order, others]))
        seeds = generator.integers(2**32, size=len(order))
        draws = list(zip(order.tolist(), seeds.tolist(), strict=True))
        for batch in range(self.first, self.steps * self.accumulate):
            end = min((batch + 1) * self.batch_size, self._used)
            whole = draws[batch * self.batch_size : end]
            yield whole[self.share.process :: self.share.processes]

    @property
    def sizes(self) -> list[int]:
        """Of this process's part of a batch: of most, and of the last one where that is smaller."""
        most, rest = self.batch_size, self._used % self.batch_size
        return [one // self.share.processes for one in (most, rest) if one]

    def _draw_extra(self, extra: Extra) -> npt.NDArray[np.int64]:
        """Those of this epoch: where it stands in one permutation of all after another."""
        places = np.arange(self.epoch * extra.drawn, (self.epoch + 1) * extra.drawn)
        found = np.empty(extra.drawn, np.int64)
        for pass_ in np.unique(places // extra.rows):
            here = places // extra.rows == pass_
            order = np.random.default_rng([self._seed, pass_, 1]).permutation(extra.rows)
            found[here] = order[places[here] % extra.rows]
        return found


def prefer_foreground(rows: Sequence[Sample], uniform: float) -> npt.NDArray[np.float64]:
    """Chances to draw each row (N,): `uniform` of them equal, the rest by foreground share.

    Without foreground in any row, all are equal.
    """
    equal = np.full(len(rows), 1 / len(rows))
    foreground = np.array([row.foreground for row in rows])
    if not foreground.any():
        return equal
    return np.asarray(uniform * equal + (1 - uniform) * foreground / foreground.sum())


def load_batches(
    dataset: TrainingSet, batches: Shuffle, workers: int, pin: bool
) -> DataLoader[tuple[UInt8, UInt8, int]]:
    """Batches of images (B, H, W, 3) and targets (B, H, W[, C]), uint8, and indices (B,).

    Args:
        workers: processes that decode and augment; they stay from epoch to epoch.
        pin: into memory that a GPU can read by itself.

    Raises:
        UserError: /dev/shm is too small for what the workers hand over.
    """
    if workers:
        _check_shared_memory(dataset, batches, workers)
    # There is a process a core. Said here and not in the workers, because this also ends the
    # threads OpenCV has: a forked process would wait for them forever as soon as it says so.
    cv2.setNumThreads(1)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        # Forked, they share the decoded images; later Pythons would send them a copy each.
        multiprocessing_context="fork" if workers else None,
        pin_memory=pin,
        persistent_workers=workers > 0,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_outlive_sigterm,
        generator=torch.Generator(),  # else each epoch takes a number from the network's
    )


_SHARED_MEMORY = Path("/dev/shm")


def _check_shared_memory(dataset: TrainingSet, batches: Shuffle, workers: int) -> None:
    """Raise `UserError` unless all batches that may be ready at once have room in /dev/shm.

    A worker that finds none is ended by the kernel (SIGBUS) without a word.
    """
    if not _SHARED_MEMORY.is_dir():
        return
    image, target, _ = dataset[0, 0]
    share = batches.share
    here = batches.batch_size * share.here // share.processes  # of a batch, on this machine
    needed = (image.nbytes + target.nbytes) * here * PREFETCH * workers
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if free < needed:
        raise UserError(
            f"runtime.workers: {workers} processes with {PREFETCH} batches ready each need "
            f"{needed / 1e6:.0f} MB of /dev/shm, which has {free / 1e6:.0f} MB free; lower it "
            f"(0 needs none), or give the container more (docker run --shm-size)"
        )


def _outlive_sigterm(worker: int) -> None:
    """Heed SIGTERM from the main process alone.

    SLURM and others send it to all processes; the main one then saves, for which it needs this
    one. torch's own handler, which ends a worker at once, never sees a blocked signal.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_told, args=[os.getppid()], daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
