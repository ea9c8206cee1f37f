"""Checks that two checkouts train to the same bits.

    python benchmarks/same_bits.py OLD NEW PAINTINGS

OLD and NEW are checkouts, PAINTINGS a folder with class subfolders; it is copied first. Each case
is a short run of `train.py` on the CPU in both. Prints a Markdown table with the first digits of
the SHA-256 of the weights, and ends with code 1 if any differ.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

CASES = {
    f"{model} {side} px {precision}": " ".join(
        [f"model={model}", f"resolution={side}", f"trainer.precision={precision}"]
    )
    for model in ("artgan", "dcgan")
    for side in (64, 128)
    for precision in ("32", "bf16")
} | {
    "conditional": "model.conditional=true",
    "color, adapted": "model.augment=[color,translation,cutout] model.augment_target=0.6",
    "random crop": "dataset.crop=random dataset.border=trim dataset.holdout=0.1",
    "tiles, deduplicated": "dataset.crop=tiles dataset.deduplicate=true resolution=32",
    "wgan_gp": "model=dcgan model.loss=wgan_gp model.normalization=spectral"
    " model.gradient_penalty=10 model.width=16 batch_size=16 resolution=32",
    "hinge": "model=dcgan model.loss=hinge model.width=16 batch_size=16 resolution=32",
    "lsgan": "model=dcgan model.loss=lsgan model.label_smoothing=0.1 model.width=16 resolution=32",
}
IMAGES = 256


def weights(checkout: Path, arguments: list[str], scratch: Path) -> str:
    """SHA-256 of the weights and of Adam's moments at the end of a run."""
    subprocess.run(
        [sys.executable, str(checkout / "train.py"), *arguments],
        cwd=scratch,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)},
        check=True,
        capture_output=True,
    )
    run = next(one.partition("=")[2] for one in arguments if one.startswith(("name=", "resume=")))
    checkpoint = torch.load(scratch / "checkpoints" / Path(run).name / "last.ckpt")
    total = hashlib.sha256()
    for name, tensor in sorted(checkpoint["state_dict"].items()):
        total.update(name.encode() + tensor.contiguous().numpy().tobytes())
    for optimizer in checkpoint["optimizer_states"]:
        for number, state in sorted(optimizer["state"].items()):
            for key in ("exp_avg", "exp_avg_sq"):
                total.update(f"{number}{key}".encode() + state[key].contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def main(checkouts: list[Path], paintings: Path) -> None:
    same = True
    print("| case | " + " | ".join(map(str, checkouts)) + " | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        shutil.copytree(paintings, scratch / "paintings")
        for number, (case, options) in enumerate(CASES.items()):
            found = []
            for checkout in checkouts:
                arguments = ["dataset=folder", "dataset.root=paintings", "trainer.accelerator=cpu"]
                arguments += [f"max_images={IMAGES}", f"name=run-{number}", *options.split()]
                shutil.rmtree(scratch / "checkpoints", ignore_errors=True)
                found.append(weights(checkout, arguments, scratch))
            same &= len(set(found)) == 1
            print(f"| {case} | {' | '.join(found)} | {'=' if len(set(found)) == 1 else '≠'} |")
            sys.stdout.flush()
        # A run begun by the old checkout, resumed by each.
        found = []
        for checkout in checkouts:
            shutil.rmtree(scratch / "checkpoints")
            begin = ["dataset=folder", "dataset.root=paintings", "trainer.accelerator=cpu"]
            weights(checkouts[0], [*begin, "max_images=128", "name=old"], scratch)
            found.append(weights(checkout, ["resume=checkpoints/old", "max_images=256"], scratch))
        same &= len(set(found)) == 1
        print(f"| begun by OLD, resumed | {' | '.join(found)} | {'=' if same else '≠'} |")
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main([Path(one).resolve() for one in sys.argv[1:3]], Path(sys.argv[3]))
