"""Features of pictures and the distances on them."""
