"""Style transfer: repainting a picture like another one."""

from artgan.style.run import stylize

__all__ = ["stylize"]
