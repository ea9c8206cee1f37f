"""Repaints a photo like a painting: `python stylize.py content=PHOTO style=PAINTING`."""

from artgan.cli import main

if __name__ == "__main__":
    main("stylize")
