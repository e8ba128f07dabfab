"""LoRA on a diffusers U-Net (by peft), with a strength α of its own for every picture of the batch.

peft scales an adapter's output by one float; a hook behind each up matrix multiplies it by α, which is a float or
one value per row. An adapter whose α is 0 everywhere is switched off, so that the base computes what it always did.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..debias.adapter import Adapter, Lora, check_base, kohya_name
from ..debias.error import DDMError

if TYPE_CHECKING:
    import torch
    from peft.tuners.lora import LoraLayer

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
RESNET = ("conv1", "conv2", "time_emb_proj")
PROJECTION = ("proj_in", "proj_out")
TARGETS = ATTENTION + FEED_FORWARD + RESNET + PROJECTION


@dataclass
class Strength:
    """The strength α of one adapter on a U-Net: a float, or a tensor with one value per picture."""

    alpha: "float | torch.Tensor" = 1.0
    active: bool = True
    trainable: bool = False

    def __call__(self, module: "torch.nn.Module", inputs: tuple, output: "torch.Tensor") -> "torch.Tensor":
        """Forward hook of an up matrix: its output [B, ...] times α."""
        if isinstance(self.alpha, float):
            return output if self.alpha == 1.0 else output * self.alpha
        copies, rest = divmod(len(output), len(self.alpha))
        if rest:
            raise ValueError(f"{len(self.alpha)} strengths for a batch of {len(output)}")
        alpha = self.alpha.to(output.dtype).repeat(copies)
        return output * alpha.view(-1, *[1] * (output.ndim - 1))


def add_lora(unet: "torch.nn.Module", name: str, rank: int, targets: Sequence[str] = TARGETS, seed: int = 0) -> None:
    """Put a new, trainable LoRA on a U-Net, in float32 and at α = 1. It changes nothing yet: its up matrices are 0.

    Args:
        unet: a diffusers UNet2DConditionModel; may carry other LoRAs.
        name: for instance "debias" or "style".
        rank: rank, and kohya's alpha: the update is up @ down.
        targets: last parts of the names of the layers (see TARGETS).
        seed: of the down matrices, which are drawn alike on every device and whatever was drawn before.

    Raises:
        DDMError: no layer of this base is among the targets.
    """
    import torch

    modules = [
        module
        for module in base_shapes(unet)
        if any(module == target or module.endswith("." + target) for target in targets)
    ]
    if not modules:
        raise DDMError(f"No layer of the base is called {', '.join(targets)}. Choose among {', '.join(TARGETS)}.")
    _inject(unet, name, dict.fromkeys(modules, rank), trainable=True)
    generator = torch.Generator().manual_seed(seed)
    for _, layer in _layers(unet, name):
        down = layer.lora_A[name].weight
        # Kaiming-uniform with a = √5, as kohya and peft start: ± 1/√(fan in).
        bound = down[0].numel() ** -0.5
        with torch.no_grad():
            down.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=generator))
            layer.lora_B[name].weight.zero_()


def set_alpha(unet: "torch.nn.Module", name: str, alpha: "float | Sequence[float] | torch.Tensor") -> None:
    """Set the strength α of a LoRA: one for all pictures, or one for each.

    Args:
        alpha: a float, or [B]. A batch of k·B rows (as classifier-free guidance makes) repeats them k times.
    """
    import torch

    strengths = _strengths(unet)
    if name not in strengths:
        raise DDMError(f"There is no LoRA called {name!r} on this model, only {', '.join(strengths) or 'none'}.")
    strength = strengths[name]
    values = torch.as_tensor(alpha, dtype=torch.float32)
    active = bool((values != 0).any())
    strength.alpha = float(alpha) if values.ndim == 0 else values.to(next(unet.parameters()).device)
    if active != strength.active:
        strength.active = active
        _refresh(unet)


def set_trainable(unet: "torch.nn.Module", name: str, trainable: bool) -> None:
    """Let a LoRA learn, or freeze it as it is."""
    strength = _strengths(unet)[name]
    if trainable != strength.trainable:
        strength.trainable = trainable
        _refresh(unet)


def lora_names(unet: "torch.nn.Module") -> list[str]:
    """Names of the LoRAs on a U-Net."""
    return list(_strengths(unet))


def lora_parameters(unet: "torch.nn.Module", name: str) -> list["torch.nn.Parameter"]:
    """The matrices of a LoRA, down and up of each layer, in the order of the layers."""
    return [matrix[name].weight for _, layer in _layers(unet, name) for matrix in (layer.lora_A, layer.lora_B)]


def export_lora(unet: "torch.nn.Module", name: str) -> dict[str, Lora]:
    """Copies of a LoRA's matrices on the CPU, by diffusers module name, as `debias.adapter.save_adapter` takes them."""
    return {
        module: Lora(
            layer.lora_A[name].weight.detach().cpu().clone(),
            layer.lora_B[name].weight.detach().cpu().clone(),
            layer.scaling[name] * layer.r[name],
        )
        for module, layer in _layers(unet, name)
    }


def scale_lora(unet: "torch.nn.Module", name: str, factor: float) -> None:
    """Multiply a LoRA's kohya alpha, rounded to float32 as a file keeps it: what is in memory is what is saved."""
    import torch

    for _, layer in _layers(unet, name):
        alpha = torch.tensor(layer.scaling[name] * layer.r[name] * factor, dtype=torch.float32)
        layer.scaling[name] = alpha.item() / layer.r[name]


def load_lora_into(unet: "torch.nn.Module", adapter: Adapter, name: str, base_hash: str = "") -> str | None:
    """Put the LoRA of a file on a U-Net, frozen, in float32 and at α = 1. Layers of a text encoder are left out.

    Returns:
        A warning when the adapter was trained on a base of another hash, or has text encoder layers.

    Raises:
        DDMError: its layers do not fit this U-Net.
    """
    import torch

    shapes = base_shapes(unet)
    warnings = [check_base(adapter, base_hash, shapes)]
    loras = {module: adapter.modules[key] for module in shapes if (key := kohya_name(module)) in adapter.modules}
    if not loras:
        raise DDMError("The LoRA changes no layer of the U-Net, so it cannot be used here. Choose another file.")
    if len(loras) < len(adapter.modules):
        warnings.append("The LoRA also changes the text encoder; this part is not applied.")
    _inject(unet, name, {module: lora.rank for module, lora in loras.items()}, trainable=False)
    for module, layer in _layers(unet, name):
        lora = loras[module]
        layer.scaling[name] = lora.alpha / lora.rank
        with torch.no_grad():
            layer.lora_A[name].weight.copy_(lora.down)
            layer.lora_B[name].weight.copy_(lora.up)
    return " ".join(warning for warning in warnings if warning) or None


def remove_lora(unet: "torch.nn.Module", name: str) -> None:
    """Take a LoRA off a U-Net."""
    unet.delete_adapters(name)
    del _strengths(unet)[name]
    _refresh(unet)


def base_shapes(unet: "torch.nn.Module") -> dict[str, tuple[int, ...]]:
    """Weight shape (out, in, ...) of every linear layer and convolution, by module name, whatever LoRAs are on it."""
    import torch
    from peft.tuners.lora import LoraLayer

    shapes = {}
    inside: tuple[str, ...] = ()
    for module, layer in unet.named_modules():
        if module.startswith(inside) and inside:
            continue
        if isinstance(layer, LoraLayer):
            inside = (*inside, module + ".")
            layer = layer.base_layer
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            shapes[module] = tuple(layer.weight.shape)
    return shapes


def _inject(unet: "torch.nn.Module", name: str, ranks: dict[str, int], trainable: bool) -> None:
    """Wrap layers by peft with empty matrices of their ranks, and hook the strength in."""
    import re
    import warnings

    import torch
    from peft import LoraConfig

    strengths = _strengths(unet)
    if name in strengths:
        raise DDMError(f"There is already a LoRA called {name!r} on this model. Remove it first.")
    config = LoraConfig(
        r=1,
        lora_alpha=1,
        rank_pattern={f"^{re.escape(module)}": rank for module, rank in ranks.items()},
        alpha_pattern={f"^{re.escape(module)}": rank for module, rank in ranks.items()},
        target_modules=f"({'|'.join(re.escape(module) for module in ranks)})",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft warns of several adapters on one model, which are what we want.
        warnings.simplefilter("ignore", UserWarning)
        unet.add_adapter(config, adapter_name=name)
    strengths[name] = Strength(trainable=trainable)
    for _, layer in _layers(unet, name):
        layer.lora_A[name].float()
        layer.lora_B[name].float().register_forward_hook(strengths[name])
    _refresh(unet)


def _refresh(unet: "torch.nn.Module") -> None:
    """Tell peft which LoRAs act; its own switch also touches requires_grad, which is put right again."""
    strengths = _strengths(unet)
    for _, layer in _layers(unet):
        layer.set_adapter([name for name, strength in strengths.items() if strength.active], inference_mode=True)
    for name, strength in strengths.items():
        for parameter in lora_parameters(unet, name):
            parameter.requires_grad_(strength.trainable)


def _layers(unet: "torch.nn.Module", name: str | None = None) -> Iterator[tuple[str, "LoraLayer"]]:
    from peft.tuners.lora import LoraLayer

    for module, layer in unet.named_modules():
        if isinstance(layer, LoraLayer) and (name is None or name in layer.lora_A):
            yield module, layer


def _strengths(unet: "torch.nn.Module") -> dict[str, Strength]:
    if not hasattr(unet, "lora_strengths"):
        unet.lora_strengths = {}
    return unet.lora_strengths
