"""`python -m artgan` is `artgan`."""

from artgan.cli import main

main()
