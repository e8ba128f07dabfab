"""Random flow-matching transformers with the real classes and few numbers, as folders in diffusers layout."""

import json
import string

import torch

from .checkpoints import SPECIAL, VOCABULARY

LETTERS = string.ascii_letters + string.digits + string.punctuation
VAE = {"sample_size": 64, "latent_channels": 16, "block_out_channels": [32] * 4, "layers_per_block": 1}
VAE |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
VAE |= {"shift_factor": 0.06, "scaling_factor": 1.5, "use_quant_conv": False, "use_post_quant_conv": False}


def make_sd3(folder, t5=True):
    """Write a small Stable Diffusion 3."""
    from diffusers import SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

    text = {"vocab_size": len(VOCABULARY), "intermediate_size": 64, "projection_dim": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "bos_token_id": SPECIAL["bos"], "eos_token_id": SPECIAL["eos"]}
    models = {
        "transformer": SD3Transformer2DModel(
            sample_size=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        "text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=16, **text)),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=32, hidden_act="gelu", **text)),
    }
    tokenizers = {"tokenizer": clip_tokenizer("<|endoftext|>"), "tokenizer_2": clip_tokenizer("!")}
    if t5:
        vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((one, -3.0) for one in LETTERS)]
        tokenizers["tokenizer_3"] = T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)
        models["text_encoder_3"] = T5EncoderModel(
            T5Config(vocab_size=len(vocabulary), d_model=64, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
        )
    return write(folder, "StableDiffusion3Pipeline", models, tokenizers, shift=3.0)


def make_z_image(folder):
    """Write a small Z-Image."""
    from diffusers import ZImageTransformer2DModel
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

    marks = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    vocabulary = {token: number for number, token in enumerate((*LETTERS, "Ġ", "Ċ", *marks))}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    models = {
        "transformer": ZImageTransformer2DModel(
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 32, 32],
        ),
        "text_encoder": Qwen3Model(Qwen3Config(vocab_size=len(vocabulary), num_key_value_heads=1, head_dim=16, **text)),
    }
    for name, parameter in models["transformer"].named_parameters():
        if name.endswith("pad_token"):
            torch.nn.init.normal_(parameter)
    special = {"additional_special_tokens": list(marks[1:]), "eos_token": "<|im_end|>", "pad_token": marks[0]}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=131072, **special)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return write(folder, "ZImagePipeline", models, {"tokenizer": tokenizer}, shift=3.0)


MAKERS = {"sd3": make_sd3, "z_image": make_z_image}


def clip_tokenizer(pad):
    """CLIP's tokenizer with single letters."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer(VOCABULARY, [], pad_token=pad, model_max_length=77)


def write(folder, pipeline, models, tokenizers, shift):
    """Write a pipeline folder."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

    parts = models | tokenizers | {"vae": AutoencoderKL(**VAE)}
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(shift=shift)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline} | index))
    return folder


def make_flow(folder, name):
    """Write the small model of a family."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MAKERS[name](folder)
