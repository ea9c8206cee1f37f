"""Paints with a trained generator: `python sample.py ckpt=checkpoints/RUN`."""

from artgan.cli import main

if __name__ == "__main__":
    main("sample")
