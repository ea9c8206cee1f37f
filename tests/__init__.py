"""A package, for one of the same name that torch-fidelity installs would else hide it."""
