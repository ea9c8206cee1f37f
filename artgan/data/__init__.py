"""From paintings on disk to uint8 batches: sources, scan, pack, stream."""
