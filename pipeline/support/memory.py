"""The process's memory: how much it took, and how glibc hands it out."""

import ctypes
import platform
import resource

# Numbers of malloc.h, and the largest threshold that 64-bit glibc takes.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST = 32 << 20


def keep_freed() -> None:
    """Make glibc keep freed memory for the next image.

    By default every array of some megabytes is mapped afresh and faulted in page by page:
    half the time of decoding and resizing. Elsewhere than on glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 16 << 20))
    for number, value in settings:
        accepted = mallopt(number, value)
        assert accepted, f"mallopt({number}, {value}) was refused"


def peak_megabytes() -> float:
    """The most memory this process has had resident so far, in MB (10**6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux gives KiB
