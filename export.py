"""Writes a trained generator as safetensors: `python export.py ckpt=checkpoints/RUN`."""

from artgan.cli import main

if __name__ == "__main__":
    main("export")
