"""The small transformers of `transformers.py` in the files that ComfyUI keeps: each part by its authors' own names."""

import json
import re

import torch
from comfyui_ddm.training.models.diffusers_folder import check_folder, read_config
from comfyui_ddm.training.models.load_base import load_base
from safetensors.torch import save_file

from .checkpoints import make_tokenizer, vae_key

Z_IMAGE = {"all_final_layer.2-1.": "final_layer.", "all_x_embedder.2-1.": "x_embedder.", "norm_k": "k_norm"}
Z_IMAGE |= {"norm_q": "q_norm", "attention.to_out.0": "attention.out"}
SD3 = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
    "transformer_blocks.": "joint_blocks.",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.norm_added_": "context_block.attn.ln_",
    ".attn.norm_": ".x_block.attn.ln_",
    ".attn2.norm_": ".x_block.attn2.ln_",
    "attn.to_out.0": "x_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}


def fused(state, parts, whole):
    """Queries, keys and values as rows of one matrix; `parts` is a pattern of their names."""
    made = {}
    for name, value in state.items():
        found = re.fullmatch(parts, name)
        if not found:
            made[name] = value
        elif found["which"] == "q":
            three = [state[re.sub(r"(to_|add_)q", rf"\1{which}", name)] for which in "qkv"]
            made[whole.format(**found.groupdict())] = torch.cat(three)
    return made


def renamed(state, names):
    """By other names; of these, the first that is in one counts."""
    for old, new in names.items():
        state = {name.replace(old, new): value for name, value in state.items()}
    return state


def turned(state, name):
    """Scale and shift in the other order."""
    return {key: torch.cat(value.chunk(2)[::-1]) if key.startswith(name) else value for key, value in state.items()}


def original_z_image(state):
    """Z-Image's own names."""
    state = fused(state, r"(?P<block>.+attention)\.to_(?P<which>[qkv])\.weight", "{block}.qkv.weight")
    return renamed(state, Z_IMAGE)


def original_sd3(state):
    """Stable Diffusion 3's own names."""
    last = max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks."))
    state = turned(turned(state, "norm_out.linear"), f"transformer_blocks.{last}.norm1_context.linear")
    for attention in ("attn", "attn2"):
        own = rf"(?P<block>.+)\.{attention}\.to_(?P<which>[qkv])\.(?P<kind>\w+)"
        state = fused(state, own, "{block}.x_block." + attention + ".qkv.{kind}")
    state = fused(
        state, r"(?P<block>.+)\.attn\.add_(?P<which>[qkv])_proj\.(?P<kind>\w+)", "{block}.context_block.attn.qkv.{kind}"
    )
    return renamed(state, SD3)


ORIGINAL = {"z_image": original_z_image, "sd3": original_sd3}
# How ComfyUI's files of text encoders begin their names.
TEXTS = {"Qwen3Model": "model.", "CLIPTextModelWithProjection": "", "T5EncoderModel": ""}


def write_components(root, name, folder):
    """Write a family's small model as ComfyUI keeps it, with the family's configuration in `root`.

    Returns:
        The diffusion model's file.
    """
    base = load_base(folder)
    config = {part: read_config(folder, part) for part in check_folder(folder)}
    config["scheduler"] = dict(base.scheduler.config)
    config |= {"tokenizer": {"pad_token": "<|endoftext|>"}, "tokenizer_2": {"pad_token": "!"}} if name == "sd3" else {}
    (root / f"{name}.json").write_text(json.dumps(config))
    models = root / "models"
    files = {"diffusion_models": {name: ORIGINAL[name](base.denoiser.state_dict())}, "text_encoders": {}}
    levels = len(base.vae.config.block_out_channels)
    vae = {vae_key(key, levels): value for key, value in base.vae.state_dict().items()}
    files["vae"] = {
        "ae": {
            key: value[:, :, None, None] if ".mid.attn_1." in key and value.ndim == 2 else value
            for key, value in vae.items()
        }
    }
    for part, model in base.text_encoders.items():
        prefix = TEXTS[type(model).__name__]
        own = {key: value for key, value in model.state_dict().items() if key != "encoder.embed_tokens.weight"}
        files["text_encoders"][part] = {prefix + key: value for key, value in own.items()}
    for kind, parts in files.items():
        (models / kind).mkdir(parents=True)
        for stem, tensors in parts.items():
            kept = {key: value.clone().contiguous() for key, value in tensors.items()}
            save_file(kept, models / kind / f"{stem}.safetensors")
    tokenizers = root / "tokenizers"
    for part, tokenizer in base.tokenizers.items():
        to = tokenizers / part.replace("text_encoder", "tokenizer")
        make_tokenizer(to) if type(tokenizer).__name__.startswith("CLIP") else tokenizer.save_pretrained(to)
    return models / "diffusion_models" / f"{name}.safetensors"
