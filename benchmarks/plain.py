"""The loop that a tutorial would write, as the yardstick of throughput.py: float32, JPEG files read
by worker processes, eager, an update of each network in turn, losses read at every step.

    python benchmarks/plain.py FOLDER RESOLUTION BATCH SECONDS

FOLDER holds class folders, as torchvision's ImageFolder wants them. Prints images/s, without the
first three batches.
"""

import os
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from artgan.networks.dcgan import Discriminator, Generator


def main(root: str, resolution: int, batch_size: int, seconds: float) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    transform = transforms.Compose(
        [
            transforms.Resize(resolution),
            transforms.CenterCrop(resolution),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    loader = DataLoader(
        datasets.ImageFolder(root, transform),
        batch_size,
        shuffle=True,
        num_workers=min(8, os.cpu_count() or 1),
        drop_last=True,
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )
    generator, discriminator = (
        Generator(resolution).to(device),
        Discriminator(resolution).to(device),
    )
    generator_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    discriminator_optimizer = torch.optim.Adam(
        discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999)
    )
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(batch_size, device=device), torch.zeros(batch_size, device=device)
    history = []
    began, batches = 0.0, -3
    while True:
        for images, _ in loader:
            if batches == 0:
                began = time.perf_counter()
            real = images.to(device)

            discriminator.zero_grad()
            real_loss = criterion(discriminator(real), ones)
            real_loss.backward()
            fake = generator(torch.randn(batch_size, 100, 1, 1, device=device))
            fake_loss = criterion(discriminator(fake.detach()), zeros)
            fake_loss.backward()
            discriminator_optimizer.step()

            generator.zero_grad()
            loss = criterion(discriminator(fake), ones)
            loss.backward()
            generator_optimizer.step()

            history.append((real_loss.item() + fake_loss.item(), loss.item()))
            batches += 1
            passed = time.perf_counter() - began
            if batches > 0 and passed > seconds:
                print(f"{batches * batch_size / passed:.1f} images/s")
                return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
