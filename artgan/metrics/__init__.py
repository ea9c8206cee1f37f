"""Features of images, and the distances between them."""

# Parts of the paintings to measure against; those of which it is not known whether they were
# trained on are one part.
PARTS = ("training", "held-out")
UNKNOWN = "paintings"
