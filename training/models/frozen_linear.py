"""Linear layers of a frozen base whose weights are kept in 8 bits, or in the computer's memory: for small GPUs.

A weight is brought in whenever something is multiplied with it, forwards and backwards, and gone again afterwards. What
diffusers offers for that, layerwise casting and group offloading, is for inference: it takes a weight away after the
forward pass, and the gradients need it again.
"""

from functools import cache
from typing import Any

import torch

# 8 bits with a sign, and as much to either side.
LARGEST = 127


def keep_small(
    model: torch.nn.Module, device: torch.device, quantize: str | None = None, offload: bool = False
) -> list[torch.nn.Linear]:
    """Change the linear layers of a model's blocks, before the model is moved to a device; they stay frozen.

    Args:
        device: on which is computed.
        quantize: "int8": each row of a weight times a number of its own, so that its largest is 127.
        offload: keep the weights in the computer's memory.

    Returns:
        The layers.
    """
    lists = [part for part in model.modules() if isinstance(part, torch.nn.ModuleList)]
    layers = {layer: None for part in lists for layer in part.modules() if type(layer) is torch.nn.Linear}
    for layer in layers:
        weight, layer.scale = layer.weight.detach(), None
        if quantize:
            # bfloat16 holds the numbers exactly, and half precision multiplies with what was divided by.
            layer.scale = (weight.abs().amax(1, keepdim=True).float() / LARGEST).clamp(min=1e-30).to(torch.bfloat16)
            weight = (weight / layer.scale.to(weight.dtype)).round().clamp(-LARGEST, LARGEST).to(torch.int8)
            layer.scale = layer.scale.to(device)
        layer.kept = weight if offload else weight.to(device)
        if offload and device.type == "cuda":
            layer.kept = layer.kept.pin_memory()
        # Says which shape, dtype and device the weight has, and takes no memory.
        blank = torch.zeros((), dtype=layer.weight.dtype, device=device).expand(layer.weight.shape)
        layer.weight = torch.nn.Parameter(blank, requires_grad=False)
        layer.__class__ = frozen_linear()
    return list(layers)


@cache
def frozen_linear() -> type:
    """The class of the layers."""

    class Multiply(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, layer: torch.nn.Module) -> torch.Tensor:
            ctx.layer = layer
            bias = None if layer.bias is None else layer.bias.to(x.dtype)
            return torch.nn.functional.linear(x, layer.whole(x.dtype), bias)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
            return gradient @ ctx.layer.whole(gradient.dtype), None

    class FrozenLinear(torch.nn.Linear):
        def whole(self, dtype: torch.dtype) -> torch.Tensor:
            """The weight as it is multiplied with."""
            weight = self.kept.to(self.weight.device, non_blocking=True).to(dtype)
            return weight if self.scale is None else weight * self.scale.to(dtype)

        def _apply(self, function: Any, recurse: bool = True) -> torch.nn.Module:
            blank, self._parameters["weight"] = self.weight, None
            super()._apply(function, recurse)
            one = function(torch.zeros((), dtype=blank.dtype, device=blank.device))
            self.weight = torch.nn.Parameter(one.expand(blank.shape), requires_grad=False)
            return self

        def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[f"{prefix}weight"] = self.kept

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kind = x.device.type
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                x = x.to(torch.get_autocast_dtype(kind))
            return Multiply.apply(x, self)

    return FrozenLinear
