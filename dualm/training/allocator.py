"""glibc's allocator set for training on a CPU: freed memory is kept for the next step instead of given back.

By default glibc maps every block above 32 MB afresh, and returns the top of its heap as soon as it is free. A training step makes and frees
the same large temporaries over and over, and the first touch of a fresh page costs several times what computing on it does.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h
GROWTH = 64 * 2**20  # bytes that the heap grows by at least


def keep_freed_memory() -> bool:
    """Serve every allocation of this process from a heap that never shrinks; False where the C library is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(*option) for option in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, GROWTH)))
