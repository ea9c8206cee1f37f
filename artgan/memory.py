"""Memory: keeping what is freed, and whether it has run out."""

import ctypes
import sys

import torch

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
# In the messages of torch and the libraries below it (C++, CUDA, oneDNN).
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
    """Has glibc, where there is one, keep freed memory for reuse.

    By default it returns large blocks to the system and asks for them again; at each update the
    system then clears thousands of pages, 10 % of the time on two CPU cores (mallopt(3)).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_MAX, 0)
