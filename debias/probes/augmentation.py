"""Augmentation for probes: what a generator gets wrong about an image, without changing who is in it."""

import torch
import torch.nn.functional as F

SHIFT = 0.08  # of the side
SCALE = 0.12
TURN = 0.1  # radians
SHEAR = 0.06
CONTRAST = 0.2
BRIGHTNESS = 0.08
TINT = 0.03  # per colour channel: more would turn one skin tone into another
NOISE = 0.06
COARSE = 0.05  # noise of 8 × 8 pixels, as a latent decoder leaves it


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move, blur, tint and disturb images, each by its own random amount.

    There is no mirroring (digits and writing are not symmetrical) and hardly any change of hue (skin tone is).

    Args:
        images: float [N, 3, H, W] in 0…1.
        generator: a generator on the CPU; the draws are the same on every device.

    Returns:
        New images of the same shape, in 0…1.
    """
    count, _, height, width = images.shape

    def uniform(*shape: int) -> torch.Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1).to(images)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(images)

    moved = _move(images, uniform(count, 6))
    blurred = _blur(moved, (uniform(count, 2) + 1) / 2)
    change = uniform(count, 5)[:, :, None, None]
    contrast, brightness, tint = change[:, :1], change[:, 1:2], change[:, 2:]
    coloured = (blurred - 0.5) * (1 + CONTRAST * contrast) + 0.5 + BRIGHTNESS * brightness + TINT * tint
    coarse = F.interpolate(normal(count, 3, max(1, height // 8), max(1, width // 8)), (height, width), mode="bilinear")
    fine = normal(count, 3, height, width)
    amount = ((uniform(count, 2) + 1) / 2)[:, :, None, None]
    return (coloured + NOISE * amount[:, :1] * fine + COARSE * amount[:, 1:] * coarse).clamp(0, 1)


def _move(images: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
    scale = 1 + SCALE * draw[:, :2].mean(dim=1)
    turn, shear = TURN * draw[:, 2], SHEAR * draw[:, 3]
    first = torch.stack([scale * turn.cos(), scale * (shear - turn.sin()), 2 * SHIFT * draw[:, 4]], dim=1)
    second = torch.stack([scale * turn.sin(), scale * turn.cos(), 2 * SHIFT * draw[:, 5]], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _blur(images: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """Blend with a lightly and a strongly blurred copy; half of the images keep most of their sharpness."""
    light = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    strong = F.avg_pool2d(light, 3, stride=1, padding=1, count_include_pad=False)
    first, second = (amount**2)[:, :, None, None, None].unbind(dim=1)
    return images.lerp(light.lerp(strong, second), first)
