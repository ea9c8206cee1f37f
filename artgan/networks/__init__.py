"""Generators and discriminators, which know nothing of data, training or files."""

from importlib import import_module
from typing import Any

# The module of each, named rather than imported: options are checked before torch is loaded.
NETWORKS = {"dcgan": "artgan.networks.dcgan"}


def load_network(name: str) -> Any:
    """The module of a network, with the classes `Generator` and `Discriminator` of `dcgan`.

    Raises:
        KeyError: no entry of `NETWORKS` has that name.
    """
    return import_module(NETWORKS[name])
