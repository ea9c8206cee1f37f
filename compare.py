"""Ranks runs and shows their samples side by side: `python compare.py checkpoints/*`."""

from artgan.cli import main

if __name__ == "__main__":
    main("compare")
