"""What a training takes of a GPU, counted over tensors that have shapes and no content, before it begins."""

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from .family import Family, class_of
from .frozen_linear import keep_small
from .lora import add_lora, lora_parameters

if TYPE_CHECKING:
    from collections.abc import Callable

META = torch.device("meta")


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, as long as they live.

    Attributes:
        peak: the most at a time.
        flops: floating-point operations so far.
    """

    def __init__(self, known: "list[torch.Tensor]"):
        super().__init__()
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.now = self.peak = self.flops = 0

    def __torch_dispatch__(
        self, function: "Callable", types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count what is new."""
        made = function(*args, **(kwargs or {}))
        if counted := flop_registry.get(function.overloadpacket):
            self.flops += counted(*args, **(kwargs or {}), out_val=made)
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.sizes:
                storage = tensor.untyped_storage()
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return made

    def _gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


class Estimate(NamedTuple):
    """Bytes on the device.

    Attributes:
        base: of the denoiser's weights.
        lora: of the LoRA with its gradients and the optimizer's moments.
        activations: of what a step makes, at the most at a time.
        encoders: of text encoders and VAE; while training they rest elsewhere if memory is saved.
        resting: whether they do.
        forward, backward: floating-point operations of a step's rows.
    """

    base: int
    lora: int
    activations: int
    encoders: int
    resting: bool
    forward: int
    backward: int

    @property
    def training(self) -> int:
        """While a step is made."""
        return self.base + self.lora + self.activations + (0 if self.resting else self.encoders)

    @property
    def peak(self) -> int:
        """The most at any time: images and captions are encoded with the base on the device as well."""
        return max(self.training, self.base + self.encoders)

    def __str__(self) -> str:
        parts = {"base": self.base, "LoRA": self.lora, "activations": self.activations, "encoders": self.encoders}
        told = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in parts.items())
        return f"about {self.peak / 1e9:.1f} GB of the GPU's memory ({told})"


def estimate(
    family: "Family",
    config: Mapping[str, Mapping[str, Any]],
    side: int | None = None,
    images: int = 1,
    rank: int = 8,
    checkpointing: bool = False,
    quantize: str | None = None,
    offload: bool = False,
    resting: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> Estimate:
    """Estimate a training of LoRAs on the denoiser.

    Attention is counted as if its whole matrix were made, which a GPU does not do.

    Args:
        config: of a model's parts, as in a pipeline folder.
        side: of the images in pixels; by default the model's own.
        images: computed at a time.
        rank: of the LoRA.
        checkpointing: whether activations are computed again instead of kept.
        quantize, offload: see `keep_small`.
        resting: whether text encoders and VAE are on the device only while they are used.
        dtype: of denoiser and text encoders; the VAE is float32.
    """
    from types import SimpleNamespace

    with META:
        denoiser = class_of("diffusers", family.denoiser).from_config(dict(config[family.part]))
        vae = class_of("diffusers", family.vae).from_config(dict(config["vae"]))
        encoders = [text.build(config[name]) for name, text in family.text_encoders.items() if name in config]
    for parameter in (part for model in (denoiser.eval(), *encoders) for part in model.parameters()):
        parameter.data, parameter.requires_grad = parameter.data.to(dtype), False
    beside = sum(part.nbytes for part in vae.parameters())
    for model in encoders:
        apart = (quantize or offload) and not family.text_targets
        beside += _held(model, keep_small(model, META, offload=True) if apart else [], offload=True)
    layers = keep_small(denoiser, META, quantize, offload) if quantize or offload else []
    weights = _held(denoiser, layers, offload)
    add_lora(denoiser, "debias", rank, family.targets)
    for parameter in lora_parameters(denoiser, "debias"):
        parameter.requires_grad_(True)
    if checkpointing:
        denoiser.enable_gradient_checkpointing()
    learning = sum(parameter.nbytes for parameter in lora_parameters(denoiser, "debias"))
    base = SimpleNamespace(family=family, denoiser=denoiser, vae=vae, dtype=dtype, device=META)
    base.vae_factor = family.vae_factor(base)
    cells = (side or family.native_size(base)) // base.vae_factor
    with META:
        noisy, t = torch.empty(images, family.latent_channels(base), cells, cells), torch.zeros(images)
    text = family.blank_text(base, images)
    known = [*denoiser.parameters(), *(layer.kept for layer in layers)]
    with LiveMemory(known) as memory:
        loss = family.predict(base, noisy, t, text).square().mean()
        forward = memory.flops
        loss.backward()
    activations = max(0, memory.peak - learning)  # gradients are the LoRA's
    return Estimate(weights, 4 * learning, activations, beside, resting, forward, memory.flops - forward)


def _held(model: torch.nn.Module, layers: "list[torch.nn.Linear]", offload: bool) -> int:
    """Bytes of a model's weights on the device; of layers that are elsewhere, one matrix at a time is here."""
    frozen, kept = {id(layer.weight) for layer in layers}, [layer.kept.nbytes for layer in layers]
    held = sum(part.nbytes for part in model.parameters() if id(part) not in frozen)
    held += sum(layer.scale.nbytes for layer in layers if layer.scale is not None)
    return held + (max(kept, default=0) if offload else sum(kept))
