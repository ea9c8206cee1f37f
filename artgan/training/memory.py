"""Memory on the CPU between updates."""

import ctypes
import sys

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Has the process keep what it frees, to use it again.

    By default, glibc gives large pieces back to the system and asks for them anew; at each update
    the system then clears thousands of pages, which took a tenth of the time on two CPU cores.

    Does nothing where there is no glibc.

    Source: the mallopt(3) manual page.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_MAX, 0)
