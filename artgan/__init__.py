"""artgan: a folder of paintings in, a machine that paints like it out."""

__version__ = "0.1.0"
