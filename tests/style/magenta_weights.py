"""Stand-ins for the weights of Magenta's network, which are not downloaded in tests."""

import torch

from artgan.cache import write_cache
from artgan.style.magenta import Network
from artgan.style.tflite import cache_path


def keep_untrained_weights() -> None:
    """Puts untrained weights into the user's cache, where the published ones are once converted.

    Set XDG_CACHE_HOME first; `method=magenta` and `init=magenta` then work without `weights_dir`.
    """
    torch.manual_seed(0)
    state = Network().state_dict()
    write_cache(cache_path(), {name: tensor.numpy() for name, tensor in state.items()})
