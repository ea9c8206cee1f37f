"""Training throughput: artgan's `train.py` against the loop of a typical tutorial.

    python benchmarks/throughput.py FOLDER [RESOLUTION [BATCH [SECONDS [ROUNDS]]]]

FOLDER has one subfolder of paintings per class; it is linked to a temporary folder. Both train the
same networks on the same paintings in separate processes, in turns, for SECONDS each; artgan with
its default logging, EMA and checkpoints. Rates are of training alone, without set-up. Prints a
Markdown table with the medians, their ratio, and artgan's share of the rate of large matrix
products on this machine.
"""

import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from artgan.networks.dcgan import Discriminator, Generator

ROOT = Path(__file__).resolve().parent.parent


def run(name: str, *arguments: str) -> tuple[str, float]:
    """Runs a script. Returns its output, and its peak resident memory in MiB."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(printed)
    return printed, usage.ru_maxrss / 1024


def found(pattern: str, printed: str) -> str:
    match = re.search(pattern, printed)
    assert match is not None, printed
    return match[1]


def operations(resolution: int) -> float:
    """Multiplications and additions of one update, for one image."""
    generator, discriminator = Generator(resolution), Discriminator(resolution)
    latents, batch = torch.randn(2, 100, 1, 1), 2
    with FlopCounterMode(display=False) as counter:
        fake = generator(latents)
        # Real and fake for the discriminator's update, then fake again for the generator's.
        discriminator(fake.detach()).sum().backward()
        discriminator(fake.detach()).sum().backward()
        discriminator.requires_grad_(False)
        discriminator(fake).sum().backward()
    return counter.get_total_flops() / batch


def matmul_rate(dtype: torch.dtype) -> float:
    """Operations per second in products of large matrices: the best of five runs of ten."""
    device, side = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 2048)
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(10):
            product = one @ other
        product[0, 0].item()
        best = min(best, time.perf_counter() - began)
    return 10 * 2 * side**3 / best


def main(
    root: Path, resolution: int = 64, batch: int = 64, seconds: int = 40, rounds: int = 3
) -> None:
    plain, ours, plain_peak, our_peak, precision = [], [], 0.0, 0.0, ""
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        # One folder each: ImageFolder would take the .artgan folder for a class.
        for folder in (Path("plain"), Path("ours")):
            for file in root.rglob("*.jpg"):
                link = folder / file.relative_to(root)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
        sizes = [f"resolution={resolution}", f"batch_size={batch}", f"max_time={seconds}s"]
        for number in range(rounds):
            printed, plain_peak = run(
                "benchmarks/plain.py", "plain", *map(str, (resolution, batch, seconds))
            )
            plain.append(float(found(r"([\d.]+) images/s", printed)))
            named = ["dataset=folder", "dataset.root=ours", f"name=run{number}", "model=dcgan"]
            printed, our_peak = run("train.py", *named, *sizes)
            ours.append(float(found(r"Done: .*, ([\d,]+) images/s", printed).replace(",", "")))
            precision = found(r"precision ([\w-]+)", printed)
        os.chdir(ROOT)  # the temporary folder is removed
    dtype = torch.bfloat16 if "bf16" in precision else torch.float32
    share = statistics.median(ours) * operations(resolution) / matmul_rate(dtype)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}; "
        f"{rounds} rounds of {seconds} s\n\n"
        "| resolution, batch | tutorial | artgan | ratio of medians | memory | share of matmul |\n"
        "|---|---|---|---|---|---|\n"
        f"| {resolution} px, {batch} | {statistics.median(plain):.0f} images/s, float32 "
        f"| {statistics.median(ours):.0f} images/s, {precision} "
        f"| {statistics.median(ours) / statistics.median(plain):.2f} "
        f"| {plain_peak:,.0f} MiB and workers, {our_peak:,.0f} MiB | {share:.0%} |"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:]))
