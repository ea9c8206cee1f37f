"""Losses, the EMA, the Lightning module and its callbacks: everything that happens in a run."""
