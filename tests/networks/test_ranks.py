"""Two real processes, each with half of a batch, compute what one does with all of it."""

import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers import ROOT, assert_same, environment

RANK = """
import sys, torch, torch.distributed as dist
from artgan.networks.ranks import average_over_ranks, mean_over_ranks, var_mean

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
features = torch.load(f"{folder}/features.pt")[4 * rank : 4 * rank + 4].requires_grad_()
var, mean = var_mean(features, (0, 2, 3))
weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3,), (2, 2))]
for weight in weights:
    weight.grad = torch.full_like(weight, rank + 1.0)
((var * var + mean).sum() + mean_over_ranks(features.sum())).backward()
average_over_ranks(weights)
torch.save(
    {"var": var.detach(), "mean": mean.detach(), "gradient": features.grad,
     "averaged": [weight.grad for weight in weights]},
    f"{folder}/{rank}.pt",
)
"""


def test_two_ranks_compute_what_one_does(tmp_path: Path) -> None:
    features = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 5
    torch.save(features, tmp_path / "features.pt")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path)],
            env=environment() | {"PYTHONPATH": str(ROOT)},
        )
        for rank in (0, 1)
    ]
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]

    features.requires_grad_()
    var, mean = torch.var_mean(features, (0, 2, 3), correction=0)
    # Gradients flow back from the objectives of both ranks, equal in the statistics.
    (2 * (var * var + mean).sum() + features.sum()).backward()
    for half in halves:
        torch.testing.assert_close((half["var"], half["mean"]), (var.detach(), mean.detach()))
        assert_same(half["averaged"], [torch.full((3,), 1.5), torch.full((2, 2), 1.5)])
    gradient = torch.cat([half["gradient"] for half in halves])
    torch.testing.assert_close(gradient, features.grad)
