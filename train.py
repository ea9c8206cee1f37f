"""Trains a GAN on paintings: `python train.py dataset=folder dataset.root=PATH`."""

from artgan.cli import main

if __name__ == "__main__":
    main("train")
