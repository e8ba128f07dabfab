"""The memory that a training of full shape needs, counted over tensors that have shapes and no content."""

import json
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from .result import Figure

if TYPE_CHECKING:
    from collections.abc import Callable

RANK, TOKENS = 8, 77
# Image size, and GB that one image at a time may take.
SHAPES = {"sd1": ("SD 1.5, 512 px", 6.0), "sdxl": ("SDXL, 1024 px", 12.0)}


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, as long as they live.

    Attributes:
        peak: the most at a time.
    """

    def __init__(self, known: "list[torch.Tensor]"):
        super().__init__()
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, function: "Callable", types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count what is new."""
        made = function(*args, **(kwargs or {}))
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


def estimated_memory() -> list[Figure]:
    """What it takes to learn from one image with checkpointing.

    That is the models in bfloat16 (the VAE in float32), the LoRA and its moments in float32, activations and gradients.
    Attention is counted as if its whole matrix were made, which a GPU does not do.
    """
    return [
        Figure(f"{name}: one image, checkpointing, estimated from shapes", _gigabytes(family), at_most=most, unit="GB")
        for family, (name, most) in SHAPES.items()
    ]


def _gigabytes(family: str) -> float:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from peft import LoraConfig
    from transformers import CLIPTextConfig, CLIPTextModel

    from ..training.models.family import FAMILIES
    from ..training.models.lora import TARGETS

    config = json.loads((FAMILIES / f"{family}.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config["unet"]).bfloat16().eval().requires_grad_(False)
        texts = [CLIPTextModel(CLIPTextConfig(**config[key])).bfloat16() for key in config if key[:8] == "text_enc"]
        frozen = [unet, *texts, AutoencoderKL.from_config(config["vae"])]
        size = sum(parameter.nbytes for model in frozen for parameter in model.parameters())
        unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)))
        unet.enable_gradient_checkpointing()
        learning = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        for parameter in learning:
            parameter.data = parameter.data.float()
        size += 3 * sum(parameter.nbytes for parameter in learning)
        side, width = config["unet"]["sample_size"], config["unet"]["cross_attention_dim"]
        shapes = {"noisy": (1, 4, side, side), "text": (1, TOKENS, width), "pooled": (1, 1280), "sizes": (1, 6)}
        made = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
        given = {"text_embeds": made["pooled"], "time_ids": made["sizes"]} if family == "sdxl" else None
        t = torch.zeros(1, dtype=torch.long)
        with LiveMemory(list(unet.parameters())) as memory:
            answer = unet(made["noisy"], t, made["text"], added_cond_kwargs=given, return_dict=False)[0]
            answer.float().square().mean().backward()
    return (size + memory.peak) / 1e9
