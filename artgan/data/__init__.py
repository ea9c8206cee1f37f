"""From paintings on disk to uint8 batches: sources, inspection, pack, stream."""
