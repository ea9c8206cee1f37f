"""The training loop of a typical tutorial, the baseline of throughput.py: float32, eager, JPEG
files read by worker processes, an update of each network in turn, losses read at every step.

    python benchmarks/plain.py FOLDER RESOLUTION BATCH SECONDS

FOLDER has one subfolder per class, as torchvision's ImageFolder expects. Prints images/s, without
the first three batches.
"""

import os
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def generator_of(resolution: int, width: int = 64) -> nn.Sequential:
    channels = width * resolution // 8
    layers: list[nn.Module] = [
        nn.ConvTranspose2d(100, channels, 4, 1, 0, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(True),
    ]
    while channels > width:
        layers += [
            nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(True),
        ]
        channels //= 2
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())


def discriminator_of(resolution: int, width: int = 64) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    channels = width
    while channels < width * resolution // 8:
        layers += [
            nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.LeakyReLU(0.2, True),
        ]
        channels *= 2
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 1, 0, bias=False), nn.Flatten(0))


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
    generator = generator_of(resolution).apply(initialize).to(device)
    discriminator = discriminator_of(resolution).apply(initialize).to(device)
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
