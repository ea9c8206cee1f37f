"""Memory: what is freed on the CPU between updates, and errors that say there is none left."""

import ctypes
import sys

import torch

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
# Said by torch and by libraries below it (C++, CUDA, oneDNN), with no error of their own for it.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "std::bad_alloc",
    "_ALLOC_FAILED",
    "could not create a primitive\n",
    "could not create a memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the machine has not enough memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in f"{error}\n" for words in OUT_OF_MEMORY)


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
