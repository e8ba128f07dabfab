"""A random Stable Diffusion 1.5 with the smallest U-Net that Forge still takes for one, LoRAs and heads for it."""

from pathlib import Path

import torch
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, Lora, save_adapter
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier
from safetensors.torch import save_file

from ..unit.checkpoints import ldm_tensors, make_models, tiny_configuration

WIDTH = 320
# Layers that a LoRA of the tests changes: a matrix, a convolution of one pixel, and one of nine.
CHANGED = ("attn1.to_q", "attn2.to_v", "ff.net.2", "proj_in", "conv1", "time_emb_proj")


def configuration() -> dict:
    """Text encoder and VAE as in SD 1.5; of the U-Net two levels of the first one's width."""
    config = tiny_configuration("sd1")
    config["unet"] |= {"block_out_channels": [WIDTH, WIDTH], "cross_attention_dim": 768, "attention_head_dim": 8}
    config["unet"] |= {"down_block_types": ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["CrossAttnUpBlock2D"] * 2}
    config["vae"] |= {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    text = {"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    config["text_encoder"] |= text | {"num_attention_heads": 12, "bos_token_id": 49406, "eos_token_id": 49407}
    return config


def save_checkpoint(path: Path, seed: int = 0) -> Path:
    """Write the checkpoint, 600 MB in half precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = make_models(configuration())
    save_file({name: value.half().contiguous() for name, value in ldm_tensors("sd1", models).items()}, path)
    return path


def layer_shapes() -> dict[str, torch.Size]:
    """Weight shapes of the U-Net's layers that a LoRA may change, by diffusers module name."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configuration()["unet"])
    return {
        name: module.weight.shape
        for name, module in unet.named_modules()
        if name.endswith(CHANGED) and getattr(module, "weight", None) is not None
    }


def save_lora(path: Path, seed: int = 0, card: AdapterCard | None = None, size: float = 0.05) -> Path:
    """Write a random LoRA for the checkpoint, with or without a card of this project."""
    draw = torch.Generator().manual_seed(seed)
    layers = {}
    for name, (out, into, *kernel) in layer_shapes().items():
        down = torch.randn(4, into, *kernel, generator=draw) * size
        up = torch.randn(out, 4, *(1 for _ in kernel), generator=draw) * size
        layers[name] = Lora(down, up, 4.0)
    save_adapter(path, layers, card)
    return path


def save_head(path: Path, attribute: str = "gender", seed: int = 0, channels: int = WIDTH) -> None:
    """Write a head that always sees a man, and pushes at random: one way for a man, the other way for a woman."""
    push = torch.randn(1, 1, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    weight, bias = torch.zeros(1, 2, channels, 4, 4), torch.tensor([[1.0, 0.0]])
    names, push = ("man", "woman"), torch.cat([-push, push], 1)
    HSpaceClassifier(names, attribute, (500,), weight, bias, push, (1.0,)).save(path)
