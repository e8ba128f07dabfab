"""torch.compile for what a U-Net repeats and what costs it most: compiled once for all of a kind."""

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from ..debias.error import DDMError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch

# A block is compiled once for each width and size that it has in a U-Net; torch gives up after 8.
KINDS = 64


def compile_blocks(unet: "torch.nn.Module") -> None:
    """Compile a diffusers U-Net's transformer blocks, with the LoRAs that are on it, and its group norms.

    That happens when they are first run, and anew for batches of another shape; see `as_written`.

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
    unet.compile_repeated_blocks(dynamic=False)
    normalised = torch.compile(_group_norm, dynamic=True)
    for module in unet.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = partial(_forward, module, normalised)
    unet.compiled = True


def as_written(unet: "torch.nn.Module") -> "AbstractContextManager":
    """Let a U-Net run as it is written meanwhile, for batches of shapes that are not worth compiling for."""
    import torch

    return torch.compiler.set_stance("force_eager") if hasattr(unet, "compiled") else nullcontext()


def _forward(module: "torch.nn.GroupNorm", normalised: "torch.nn.Module", x: "torch.Tensor") -> "torch.Tensor":
    return normalised(x, module.num_groups, module.weight, module.bias, module.eps)


def _group_norm(
    x: "torch.Tensor", groups: int, weight: "torch.Tensor", bias: "torch.Tensor", eps: float
) -> "torch.Tensor":
    """As torch.nn.functional.group_norm, for x [B, C, H, W] in the order of channels_last, and giving it in that order.

    torch's own kernel for GPUs brings x into the other order first, and the convolution after it brings it back.
    """
    import torch

    rows = x.permute(0, 2, 3, 1)
    parts = rows.reshape(*rows.shape[:3], groups, -1).float()
    variance, mean = torch.var_mean(parts, (1, 2, 4), correction=0, keepdim=True)
    normal = ((parts - mean) * torch.rsqrt(variance + eps)).reshape(rows.shape)
    return (normal * weight + bias).to(x.dtype).permute(0, 3, 1, 2)
