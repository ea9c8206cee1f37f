"""Google Magenta's arbitrary style transfer: a network repaints an image in one pass.

The predictor describes a style by 100 numbers; the transformer paints as they say. Styles are
blended, and weakened, by averaging these numbers.

Source: Ghiasi et al. 2017 (arXiv:1705.06830).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from artgan.device import on_device
from artgan.options import StylizeConfig
from artgan.style.inputs import Region, mean_statistics
from artgan.style.predictor import Predictor
from artgan.style.tflite import load_weights
from artgan.style.tiles import TileSize
from artgan.style.transformer import STYLE_DIM, Transformer

STYLE_SIZE = 256  # pixels of the short side of a style
LONGEST_STYLE = 1024  # largest side of a style in pixels
TILE, SMALLEST_TILE = 256, 32  # sides in pixels
SMALLEST_SIDE = 8  # pixels that the transformer needs to reflect the border


class Network(nn.Module):
    """Both networks, under whose names the weights are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.predictor = Predictor()
        self.transformer = Transformer()


class Magenta:
    """Repaints images with the published network.

    Args:
        config: `weights_dir`, `strength`, `style_size` and `tile` are read.

    Raises:
        UserError: the weights or the device are not available.

    Example:
        >>> Magenta(config, "cpu").paint(content, [Region(style, 1.0, None)])
    """

    def __init__(self, config: StylizeConfig, device: str) -> None:
        with torch.device("meta"):
            network = Network()
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        weights, self.key = load_weights(config.weights_dir, shapes)
        network.load_state_dict(weights, assign=True)
        self.network = on_device(network.requires_grad_(False), device)
        self.device = device
        self.strength = config.strength
        self.style_size = config.style_size
        self.tile = TileSize((config.tile or TILE) // 4 * 4, SMALLEST_TILE)

    @torch.no_grad()
    def paint(self, content: Tensor, regions: Sequence[Region]) -> Tensor:
        """Repaints an image.

        Styles without masks are blended into one. Each style with a mask is painted by itself, and
        the results are blended.

        Args:
            content: float32 [1, 3, H, W] in [0, 1], on the CPU.
            regions: at least one style, and where each is painted.

        Returns:
            float32 [1, 3, H, W] in [0, 1], on the CPU; black outside all masks.
        """
        everywhere = [region for region in regions if region.mask is None]
        layers = [[region] for region in regions if region.mask is not None]
        layers += [everywhere] if everywhere else []
        if len(layers) == 1:
            return self._paint(content, layers[0])
        painted, cover = torch.zeros_like(content), torch.zeros_like(content[:, :1])
        for layer in layers:
            weight = sum(region.weight for region in layer)
            share = torch.tensor(weight) if layer[0].mask is None else weight * layer[0].mask
            painted += share * self._paint(content, layer)
            cover += share
        painted /= cover.clamp_(min=torch.finfo(cover.dtype).tiny)
        return painted.clamp_(0, 1)

    def _paint(self, content: Tensor, regions: Sequence[Region]) -> Tensor:
        """Repaints all of the content in the blend of some styles."""
        style = self.blend(regions)
        if self.strength < 1:
            style += (1 - self.strength) * self.describe(content)
        height, width = content.shape[2:]
        missing = [max(SMALLEST_SIDE, -(-side // 4) * 4) - side for side in (width, height)]
        image = content.to(self.device)
        if any(missing):
            image = F.pad(image, (0, missing[0], 0, missing[1]), "replicate")
        painted = self.tile.compute(lambda tile: self.network.transformer(image, style, tile))
        return painted[:, :, :height, :width].cpu()

    def blend(self, regions: Sequence[Region]) -> Tensor:
        """The description [1, 100, 1, 1] of the blend of some styles, times the strength."""

        def statistics(image: Image.Image) -> dict[str, Tensor]:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
            return {"style": self.describe(pixels)}

        key = f"magenta-{self.key}-{self.style_size}"
        total = sum(region.weight for region in regions)
        style = torch.zeros(1, STYLE_DIM, 1, 1)
        for region in regions:
            own = mean_statistics(region.style, statistics, key)["style"]
            style += region.weight / total * own
        return self.strength * style.to(self.device)

    def describe(self, image: Tensor) -> Tensor:
        """The description [1, 100, 1, 1] of an image [1, 3, H, W], uint8 or in [0, 1]."""
        sides = image.shape[2:]
        scale = min(STYLE_SIZE / min(sides), LONGEST_STYLE / max(sides))
        if self.style_size:
            scale = self.style_size / max(sides)
        size = [max(1, round(scale * side)) for side in sides]
        small = F.interpolate(image, size, mode="bilinear", antialias=True)
        if small.dtype == torch.uint8:
            small = small / 255
        return self.network.predictor(
            small.to(self.device).contiguous(memory_format=torch.channels_last)
        )
