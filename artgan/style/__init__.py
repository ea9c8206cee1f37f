"""Style transfer: repainting a picture like another one."""

from artgan.style.batch import stylize

__all__ = ["stylize"]
