"""Measures how well a run paints: `python evaluate.py ckpt=checkpoints/RUN`."""

from artgan.cli import main

if __name__ == "__main__":
    main("evaluate")
