"""The small network inside a probe, and the images as it wants them."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..core.error import DDMError

SIZE = 64  # pixels: side of what the network sees


class ProbeNetwork(nn.Module):
    """A small convolutional network: images float [N, 3, 64, 64] in 0…1 → features [N, width]."""

    def __init__(self, width: int = 128):
        super().__init__()
        channels = [(3, width // 4, 2), (width // 4, width // 2, 2), (width // 2, width // 2, 1)]
        channels += [(width // 2, width, 2), (width, width, 1)]
        self.layers = nn.Sequential(*(_block(*one) for one in channels))
        self.width = width
        # How many numbers `look` gives beside the features.
        self.look_width = sum(outputs for _, outputs, _ in channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features [N, width]: the mean over space of the last layer."""
        return self.layers(images * 2 - 1).mean(dim=(2, 3))

    def look(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features as `forward`, and what tells images of another kind: the means over space of all layers."""
        means, found = [], images * 2 - 1
        for layer in self.layers:
            found = layer(found)
            means.append(found.mean(dim=(2, 3)))
        return means[-1], torch.cat(means, dim=1)


def check_images(images: np.ndarray) -> None:
    """Refuse what is not uint8 [N, H, W, 3].

    Raises:
        DDMError: saying what was given.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise DDMError(f"A probe reads uint8 images [N, H, W, 3], not {images.dtype} {list(images.shape)}.")


def image_tensor(images: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    """uint8 [N, H, W, 3] → float [N, 3, 64, 64] in 0…1, centre-cropped, channels last in memory (which is quicker)."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255
    return fit_tensor(tensor).contiguous(memory_format=torch.channels_last)


def fit_tensor(images: torch.Tensor, size: int = SIZE) -> torch.Tensor:
    """The centre square of images float [N, 3, H, W], scaled to `size` × `size`; differentiable."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[..., top : top + side, left : left + side]
    if side == size:
        return square
    return F.interpolate(square, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
