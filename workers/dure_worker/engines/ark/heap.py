"""What a pass needs for itself stays with the process, instead of going back to the system and coming again as zeros.

By its own rules the GNU allocator maps each tensor of 128 KiB and more anew: page faults took an eighth of the time of
a chunk of a prompt in a virtual machine. Source: mallopt(3).
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# The largest tensor of a pass: 256 rows of the widest matrix that a small box serves.
_LARGEST = 32 << 20
_KEPT = 64 << 20


def keep() -> None:
    """From now on, for the whole process. Another C library than GNU's has no such setting and is left as it is."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)
