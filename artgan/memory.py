"""Memory: what is freed on the CPU between updates, and errors that say there is none left."""

import ctypes
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

Computed = TypeVar("Computed")

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


def in_parts(compute: Callable[[int], Computed], side: int, least: int) -> tuple[Computed, int]:
    """Computes a picture in parts, and where the memory is too little for them, in smaller ones.

    Args:
        compute: takes the side of the parts in pixels.
        side: to begin with.
        least: below which it is given up.

    Returns:
        What was computed, and the side of the parts that it took.

    Raises:
        RuntimeError, MemoryError: there is too little memory even for the least parts.
    """
    while True:
        try:
            return compute(side), side
        except (RuntimeError, MemoryError) as error:
            if side <= least or not is_out_of_memory(error):
                raise
        side = max(side // 8 * 4, least)
        print(f"Too little memory: going on in parts of {side} px.", file=sys.stderr)


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
