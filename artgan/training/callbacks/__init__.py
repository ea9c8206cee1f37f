"""What happens around the updates: stopping, curves, grids, measurements, checkpoints."""
