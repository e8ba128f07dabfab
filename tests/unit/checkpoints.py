"""Random models of the three families, small or on the meta device, and their weights under LDM's key names."""

import json
import re

import torch

from .conftest import tiny_vocabulary

VOCABULARY = tiny_vocabulary()
SPECIAL = {name: VOCABULARY[f"<|{text}|>"] for name, text in (("bos", "startoftext"), ("eos", "endoftext"))}


def tiny_configuration(family, prediction="epsilon"):
    """Few channels, everything else as in the family."""
    unet = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": [32, 32]}
    unet |= {"layers_per_block": 2, "attention_head_dim": 2, "cross_attention_dim": 32}
    unet |= {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    unet |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
    vae = {"sample_size": 64, "latent_channels": 4, "block_out_channels": [32] * 4, "layers_per_block": 1}
    vae |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    text = {"vocab_size": len(VOCABULARY), "hidden_size": 32, "intermediate_size": 64, "projection_dim": 32}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 77}
    text |= {"hidden_act": "quick_gelu", "bos_token_id": SPECIAL["bos"], "eos_token_id": SPECIAL["eos"]}
    config = {"unet": unet, "vae": vae, "text_encoder": text, "tokenizer": {"pad_token": "<|endoftext|>"}}
    schedule = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}
    config["scheduler"] = schedule | {"beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1}
    config["scheduler"]["prediction_type"] = prediction
    if family == "sd2":
        unet |= {"use_linear_projection": True, "cross_attention_dim": 1024}
        text |= {"hidden_size": 1024, "projection_dim": 1024, "num_hidden_layers": 1, "hidden_act": "gelu"}
        config["tokenizer"] = {"pad_token": "!"}
    if family == "sdxl":
        unet |= {"use_linear_projection": True, "cross_attention_dim": 48, "transformer_layers_per_block": [1, 2]}
        unet |= {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}
        unet |= {"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}
        unet |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
        unet |= {"projection_class_embeddings_input_dim": 32 + 6 * 8}
        vae["scaling_factor"] = 0.13025
        config["text_encoder_2"] = text | {"hidden_act": "gelu"}
        config["text_encoder"] = text | {"hidden_size": 16}
        config["tokenizer_2"] = {"pad_token": "!"}
    return config


def make_models(config):
    """The models of a configuration."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    models = {
        "unet": UNet2DConditionModel.from_config(config["unet"]),
        "vae": AutoencoderKL.from_config(config["vae"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**config["text_encoder"])),
    }
    if "text_encoder_2" in config:
        models["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**config["text_encoder_2"]))
    return models


def make_folder(folder, config, models):
    """Write models in diffusers layout."""
    from diffusers import DDPMScheduler
    from transformers import CLIPTokenizer

    for name, model in models.items():
        model.save_pretrained(folder / name)
    DDPMScheduler.from_config(config["scheduler"]).save_pretrained(folder / "scheduler")
    files = make_tokenizer(folder / "vocabulary")
    for name in ("tokenizer", "tokenizer_2"):
        if name in config:
            paths = (str(files / part) for part in ("vocab.json", "merges.txt"))
            CLIPTokenizer(*paths, model_max_length=77, **config[name]).save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps({name: [] for name in (*models, "tokenizer", "scheduler")}))
    return folder


def make_tokenizer(folder):
    """Write a tokenizer of single letters, as ComfyUI keeps CLIP's."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return folder


def ldm_tensors(family, models):
    """The weights of all models under the keys of a single-file checkpoint."""
    unet = models["unet"]
    plain = [number for number, kind in enumerate(unet.config.up_block_types) if kind == "UpBlock2D"]
    tensors = {"model.diffusion_model." + unet_key(key, plain): value for key, value in unet.state_dict().items()}
    levels = len(models["vae"].config.block_out_channels)
    for name, value in models["vae"].state_dict().items():
        key = vae_key(name, levels)
        matrix = ".mid.attn_1." in key and value.ndim == 2
        tensors["first_stage_model." + key] = value[:, :, None, None] if matrix else value
    text = models["text_encoder"].state_dict()
    if family == "sd2":
        prefix = "cond_stage_model.model."
        tensors |= {prefix + key: value for key, value in open_clip(text).items()}
        # The file holds one layer more than is used, and a projection.
        last = models["text_encoder"].config.num_hidden_layers - 1
        layer = f"{prefix}transformer.resblocks."
        tensors |= {
            key.replace(f"{layer}{last}.", f"{layer}{last + 1}."): value
            for key, value in tensors.items()
            if key.startswith(f"{layer}{last}.")
        }
        width = models["text_encoder"].config.hidden_size
        tensors[prefix + "text_projection"] = torch.zeros(width, width, device=next(iter(text.values())).device)
    else:
        prefix = "cond_stage_model.transformer." if family == "sd1" else "conditioner.embedders.0.transformer."
        tensors |= {prefix + "text_model." + key.removeprefix("text_model."): value for key, value in text.items()}
        tensors[prefix + "text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if family == "sdxl":
        second = open_clip(models["text_encoder_2"].state_dict())
        tensors |= {"conditioner.embedders.1.model." + key: value for key, value in second.items()}
        tensors["conditioner.embedders.1.model.logit_scale"] = torch.zeros(())
    return tensors


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
RESNET |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
OUTSIDE = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
OUTSIDE |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
OUTSIDE |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}


def unet_key(name, plain=()):
    """LDM's name of a weight of a U-Net with two residual blocks per level; `plain` up-blocks do not attend."""
    module, kind = name.rsplit(".", 1)
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{kind}"
    level = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    if level is None:
        _, part, number, rest = name.split(".", 3)
        place = "1" if part == "attentions" else str(2 * int(number))
        return f"middle_block.{place}." + inner(rest)
    side, block, part, number, rest = level.groups()
    block, number = int(block), int(number)
    if part == "downsamplers":
        return f"input_blocks.{3 * block + 3}.0.op.{kind}"
    if part == "upsamplers":
        return f"output_blocks.{3 * block + 2}.{1 if block in plain else 2}.conv.{kind}"
    place = f"input_blocks.{3 * block + number + 1}" if side == "down" else f"output_blocks.{3 * block + number}"
    return f"{place}.{int(part == 'attentions')}.{inner(rest)}"


def inner(rest):
    module, dot, kind = rest.partition(".")
    return RESNET.get(module, module) + dot + kind


def vae_key(name, levels):
    """LDM's name of a weight of diffusers' VAE."""
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = (
        name.replace("mid_block.attentions.0", "mid.attn_1")
        .replace("group_norm", "norm")
        .replace("to_out.0", "proj_out")
    )
    name = re.sub(r"attn_1\.to_([qkv])", r"attn_1.\1", name)
    name = name.replace("down_blocks", "down").replace("resnets", "block").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    return name.replace("conv_norm_out", "norm_out")


def open_clip(state):
    """A text encoder's weights as OpenCLIP names and joins them."""
    state = {name.removeprefix("text_model."): value for name, value in state.items()}
    renamed = {}
    for name, value in state.items():
        key = name.replace("embeddings.token_embedding", "token_embedding").replace("final_layer_norm", "ln_final")
        key = key.replace("embeddings.position_embedding.weight", "positional_embedding")
        key = key.replace("encoder.layers", "transformer.resblocks").replace("layer_norm", "ln_")
        key = key.replace("fc1", "c_fc").replace("fc2", "c_proj").replace("self_attn", "attn")
        if "_proj." in key and ".attn." in key and "out_proj" not in key:
            if ".q_proj." in key:
                three = [state[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
                renamed[key.replace("q_proj.", "in_proj_")] = torch.cat(three)
        elif key == "text_projection.weight":
            renamed["text_projection"] = value.T
        else:
            renamed[key] = value
    return renamed
