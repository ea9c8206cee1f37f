"""Style transfer: repainting an image like a painting."""

from artgan.style.api import stylize

__all__ = ["stylize"]
