"""torch.compile for what a GPU computes badly as it is written: a U-Net's group norms."""

from functools import cache
from typing import TYPE_CHECKING

from ...debias.core.error import DDMError

if TYPE_CHECKING:
    import torch

# A function is compiled anew for other numbers of dimensions, orders and needs of gradients; torch gives up after 8.
KINDS = 64


def compile_norms(unet: "torch.nn.Module") -> None:
    """Compile a diffusers U-Net's group norms, once for all sizes and batches; that happens when they are first run.

    On a GPU, torch's own take a quarter of a step with the copies that they cause. Whole blocks take minutes to compile
    instead of seconds, and are compiled anew for batches of another shape.

    Raises:
        DDMError: there is no compiler here for the U-Net's device.
    """
    import torch

    try:
        torch.compile(torch.sin)(torch.ones(2, device=next(unet.parameters()).device))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DDMError(
            f"Nothing can be compiled here ({reason}). On a CPU, install a C++ compiler such as g++; on a GPU, triton. "
            "Or train without --compile."
        ) from error
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, KINDS)
    torch.fx.experimental._config.use_duck_shape = False  # sizes that are equal once need not be so always
    for module in unet.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.__class__ = _compiled_norm()


@cache
def _compiled_norm() -> type:
    """Group norms by `_group_norm`. They are a class, as what belongs to a single object would be compiled for each."""
    import torch

    normalised = torch.compile(_group_norm, dynamic=True)

    class GroupNorm(torch.nn.GroupNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # Of parameters, torch would compile anew for each size.
            return normalised(x, self.num_groups, self.weight.detach(), self.bias.detach(), self.eps)

    return GroupNorm


def _group_norm(
    x: "torch.Tensor", groups: int, weight: "torch.Tensor", bias: "torch.Tensor", eps: float
) -> "torch.Tensor":
    """As torch.nn.functional.group_norm, for x [B, C, ...], in the order that x has in memory.

    torch's own kernel for GPUs brings x out of the order of channels_last first, and the convolution after it brings it
    back. Here whatever is summed over the image is summed for each channel, where what is read lies together.
    """
    import torch

    shape = (*x.shape[:2], *[1] * (x.ndim - 2))
    variance, mean = torch.var_mean(x.float(), tuple(range(2, x.ndim)), correction=0)  # [B, C]
    means = mean.unflatten(1, (groups, -1))
    middle = means.mean(-1, keepdim=True)
    spread = variance.unflatten(1, (groups, -1)).mean(-1, keepdim=True)
    spread = spread + (means - middle).square().mean(-1, keepdim=True)
    scale = torch.rsqrt(spread + eps).expand_as(means).flatten(1) * weight
    shift = bias - middle.expand_as(means).flatten(1) * scale
    return (x.float() * scale.view(shape) + shift.view(shape)).to(x.dtype)
