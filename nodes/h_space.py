"""Where distribution guidance reads and pushes in a MODEL: a U-Net's middle, or the image's tokens in a transformer.

A transformer is patched by the host's own means: models that call a list of patches after each block get one more,
others have the middle block replaced by itself and the push, after whoever replaced it before.
"""

from collections.abc import Callable
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ..debias.core.error import DDMError

# (h [rows, C, H, W], the host's options) → what it is to be instead, or h itself.
Push = Callable[[torch.Tensor, dict], torch.Tensor]
# What the host's transformers call their blocks, and whether these call a list of patches.
BLOCKS = {"layers": True, "transformer_blocks": False, "joint_blocks": False, "double_blocks": False, "blocks": False}
NOT_CALLED = (
    "This version of ComfyUI does not let the middle of this model be changed, so nothing was guided. Update ComfyUI, "
    "or take the node out."
)


def is_transformer(model: Any) -> bool:
    """Whether a MODEL is a transformer whose middle can be guided.

    Raises:
        DDMError: it is neither a U-Net nor such a transformer.
    """
    if hasattr(model.model.diffusion_model, "middle_block"):
        return False
    if _blocks(model) is None:
        raise DDMError(
            "This kind of model cannot be guided: it has neither a U-Net's middle nor a transformer's blocks. Use a "
            "Stable Diffusion, Z-Image, FLUX or Qwen-Image."
        )
    return True


def timestep(model: Any, options: dict) -> float:
    """The timestep at which heads know a noise level: the U-Net's own, or 1000 σ."""
    sigma = options["sigmas"][:1]
    return 1000 * float(sigma) if is_transformer(model) else float(model.model.model_sampling.timestep(sigma))


def patch_h_space(model: Any, key: str, push: Push) -> Callable[[], bool]:
    """Let a function move h-space whenever a MODEL, a clone, answers.

    Args:
        key: a name of its own.

    Returns:
        A function that says whether it has been called since it was asked last.
    """
    called = [False]

    def pushed(h: torch.Tensor, options: dict) -> torch.Tensor:
        called[0] = True
        return push(h, options)

    def was_called() -> bool:
        before, called[0] = called[0], False
        return before

    if is_transformer(model):
        _patch_tokens(model, key, pushed)
    else:
        _patch_unet(model, pushed)
    return was_called


def _patch_unet(model: Any, push: Push) -> None:
    def patch(h: torch.Tensor, skipped: torch.Tensor, options: dict) -> tuple[torch.Tensor, torch.Tensor]:
        # What enters the first output block is the middle's output: h-space.
        return (push(h, options) if options["block"] == ("output", 0) else h), skipped

    model.set_model_output_block_patch(patch)


def _patch_tokens(model: Any, key: str, push: Push) -> None:
    from ..debias.methods.h_space import TokenHSpace

    name, blocks = _blocks(model)
    middle, space, shape = len(blocks) // 2, TokenHSpace(blocks, None), []

    def seen(executor: Any, x: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        # The host fills up odd sides; FLUX.2's cells are tokens as they are.
        cells = 2 // getattr(model.model.diffusion_model, "patch_size", 2)
        shape[:] = [*x.shape[:-2], *(cells * side + cells * side % 2 for side in x.shape[-2:])]
        return executor(x, *rest, **named)

    def moved(tokens: torch.Tensor, options: dict) -> torch.Tensor:
        h = space.read(tokens, tuple(shape))
        to = push(h, options)
        return tokens if to is h else space.push(tokens, h, to, tuple(shape))

    def after(args: dict) -> dict:
        if args["block_index"] != middle:
            return {}
        return {"img": moved(args["img"], args["transformer_options"])}

    def instead(args: dict, extra: dict) -> dict:
        out = before(args, extra) if before else extra["original_block"](args)
        return out | {"img": moved(out["img"], args["transformer_options"])}

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, f"{key}_shape", seen)
    if BLOCKS[name]:
        model.set_model_patch(after, "double_block")
        return
    place = ("double_block", middle)
    before = model.model_options["transformer_options"].get("patches_replace", {}).get("dit", {}).get(place)
    model.set_model_patch_replace(instead, "dit", *place)


def _blocks(model: Any) -> tuple[str, torch.nn.ModuleList] | None:
    denoiser = model.model.diffusion_model
    found = ((name, getattr(denoiser, name, None)) for name in BLOCKS)
    return next((pair for pair in found if isinstance(pair[1], torch.nn.ModuleList)), None)
