"""Trains a GAN on paintings: `python train.py PATH`."""

from artgan.cli import main

if __name__ == "__main__":
    main("train")
