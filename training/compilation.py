"""torch.compile for the blocks that a U-Net repeats: most of its time, and compiled once for all of a kind."""

from typing import TYPE_CHECKING

from ..debias.error import DDMError

if TYPE_CHECKING:
    import torch


def compile_blocks(unet: "torch.nn.Module") -> None:
    """Compile a diffusers U-Net's repeated blocks, with the LoRAs that are on it, when they are first run.

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
    unet.compile_repeated_blocks()
