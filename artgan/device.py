"""The device to compute on."""

from typing import TypeVar

import torch
from torch import nn

from artgan.errors import UserError
from artgan.memory import is_out_of_memory

Network = TypeVar("Network", bound=nn.Module)


def pick_device(device: str) -> str:
    """torch's name for a device, and for what `auto` stands for on this machine."""
    if device != "auto":
        return "cuda" if device == "gpu" else device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def is_fast_at_bf16(device: str) -> bool:
    """Whether a device, cpu, cuda or mps, computes faster in bfloat16 than in float32.

    Intel's AVX512-BF16 alone is slower at it, AMD's is faster (`benchmarks/NOTES.md`).
    """
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    is_intel = "Intel" in str(capabilities.get("cpu_name"))
    fast = (capabilities.get("avx512_bf16") and not is_intel) or capabilities.get("amx_bf16")
    return device == "cpu" and bool(fast)


def on_device(network: Network, device: str) -> Network:
    """Moves a network to a device.

    Raises:
        UserError: this machine has no such device, or it is out of memory.
    """
    try:
        return network.to(device)
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise UserError(
                f"device: {device} is out of memory. Free some, or add device=cpu."
            ) from error
        raise UserError(f"device: there is no {device} on this machine.") from error
