"""Random flow-matching transformers with the real classes and few numbers, as folders in diffusers layout."""

import json
import string
from importlib.metadata import version

import pytest
import torch
from comfyui_ddm.training.models.ldm_checkpoint import read_family
from comfyui_ddm.training.models.lora import base_shapes

from .checkpoints import SPECIAL, VOCABULARY

LETTERS = string.ascii_letters + string.digits + string.punctuation
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN = {token: number for number, token in enumerate((*LETTERS, "Ġ", "Ċ", *MARKS))}
# Of transformers that take a row of tokens, and of schedules that shift by an image's size.
SMALL = {"in_channels": 64, "attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 6, 6)}
DYNAMIC = {"shift": 3.0, "use_dynamic_shifting": True}
VAE = {"sample_size": 64, "latent_channels": 16, "block_out_channels": [32] * 4, "layers_per_block": 1}
VAE |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
VAE |= {"shift_factor": 0.06, "scaling_factor": 1.5, "use_quant_conv": False, "use_post_quant_conv": False}


def make_sd3(folder, t5=True):
    """Write a small Stable Diffusion 3."""
    from diffusers import SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    text = {"vocab_size": len(VOCABULARY), "intermediate_size": 64, "projection_dim": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "bos_token_id": SPECIAL["bos"], "eos_token_id": SPECIAL["eos"]}
    models = {
        "transformer": SD3Transformer2DModel(
            sample_size=8,
            num_layers=2,
            attention_head_dim=64,  # ComfyUI knows no other
            num_attention_heads=2,
            joint_attention_dim=64,
            caption_projection_dim=128,
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
        tokenizers["tokenizer_3"], models["text_encoder_3"] = make_t5()
    return write(folder, "StableDiffusion3Pipeline", models, tokenizers, shift=3.0)


def make_z_image(folder, wide=False):
    """Write a small Z-Image; a wide one has sides that ComfyUI's own class can have."""
    from diffusers import ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    models = {
        "transformer": ZImageTransformer2DModel(
            dim=1152 if wide else 32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=9 if wide else 2,
            n_kv_heads=9 if wide else 2,
            cap_feat_dim=32,
            axes_dims=[32, 48, 48] if wide else [4, 6, 6],
            axes_lens=[1024, 32, 32],
        ),
        "text_encoder": Qwen3Model(Qwen3Config(vocab_size=len(QWEN), num_key_value_heads=1, head_dim=16, **text)),
    }
    for name, parameter in models["transformer"].named_parameters():
        if name.endswith("pad_token"):
            torch.nn.init.normal_(parameter)
    return write(folder, "ZImagePipeline", models, {"tokenizer": qwen_tokenizer()}, shift=3.0)


def make_flux1(folder):
    """Write a small FLUX.1 that is told the guidance."""
    from diffusers import FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text = {"vocab_size": len(VOCABULARY), "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "bos_token_id": SPECIAL["bos"], "eos_token_id": SPECIAL["eos"]}
    tokenizer, t5 = make_t5(64)
    models = {
        "transformer": FluxTransformer2DModel(
            num_layers=2,
            num_single_layers=1,
            joint_attention_dim=64,
            pooled_projection_dim=16,
            guidance_embeds=True,
            **SMALL,
        ),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text)),
        "text_encoder_2": t5,
    }
    tokenizers = {"tokenizer": clip_tokenizer("<|endoftext|>"), "tokenizer_2": tokenizer}
    return write(folder, "FluxPipeline", models, tokenizers, **DYNAMIC)


def make_chroma(folder):
    """Write a small Chroma."""
    from diffusers import ChromaTransformer2DModel

    tokenizer, t5 = make_t5(64)
    sizes = {"approximator_num_channels": 64, "approximator_hidden_dim": 32, "approximator_layers": 2}
    models = {
        "transformer": ChromaTransformer2DModel(
            num_layers=2, num_single_layers=1, joint_attention_dim=64, **SMALL, **sizes
        ),
        "text_encoder": t5,
    }
    return write(folder, "ChromaPipeline", models, {"tokenizer": tokenizer})


def make_qwen_image(folder):
    """Write a small Qwen-Image."""
    from diffusers import QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {"vocab_size": len(QWEN), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    seen = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=seen)
    models = {
        "transformer": QwenImageTransformer2DModel(num_layers=2, joint_attention_dim=32, out_channels=16, **SMALL),
        "text_encoder": Qwen2_5_VLForConditionalGeneration(config),
        "vae": make_qwen_vae(),
    }
    schedule = DYNAMIC | {"shift": 1.0, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
    return write(folder, "QwenImagePipeline", models, {"tokenizer": qwen_tokenizer(256)}, **schedule)


def make_flux2(folder):
    """Write a small FLUX.2 Klein; three of its text encoder's layers are read, the last of them the 27th."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    text = {"vocab_size": len(QWEN), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 28}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    sizes = {name: value for name, value in VAE.items() if not name.endswith("_factor") and "quant" not in name}
    vae = AutoencoderKLFlux2(**sizes | {"latent_channels": 32})
    torch.nn.init.normal_(vae.bn.running_mean, std=0.1)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2)
    small = SMALL | {"in_channels": 128, "axes_dims_rope": (4, 4, 4, 4)}
    models = {
        "transformer": Flux2Transformer2DModel(
            num_layers=2, num_single_layers=1, joint_attention_dim=96, guidance_embeds=False, **small
        ),
        "text_encoder": Qwen3ForCausalLM(Qwen3Config(**text)),
        "vae": vae,
    }
    return write(folder, "Flux2KleinPipeline", models, {"tokenizer": qwen_tokenizer(96)}, **DYNAMIC)


def make_krea2(folder, distilled=False):
    """Write a small Krea 2; of its text encoder's layers twelve are read, the last of them the 35th."""
    from diffusers import Krea2Transformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLModel

    text = {"vocab_size": len(QWEN), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 36}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [3, 3, 2]}
    seen = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    seen |= {"deepstack_visual_indexes": [0]}
    models = {
        "transformer": Krea2Transformer2DModel(
            in_channels=64,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=64,
            timestep_embed_dim=32,
            text_hidden_dim=32,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=32,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 6, 6),
        ),
        "text_encoder": Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=seen)),
        "vae": make_qwen_vae(),
    }
    for parameter in models["transformer"].parameters():
        if not parameter.any():  # tables and norms, which begin with nothing
            torch.nn.init.normal_(parameter, std=0.2)
    write(folder, "Krea2Pipeline", models, {"tokenizer": qwen_tokenizer(256)}, **DYNAMIC, max_image_seq_len=6400)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"is_distilled": distilled, "patch_size": 2}))
    return folder


def make_qwen_vae():
    """Qwen-Image's VAE for images of 64 by 64."""
    from diffusers import AutoencoderKLQwenImage

    vae = AutoencoderKLQwenImage(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    vae.register_to_config(sample_size=64)
    return vae


MAKERS = {"sd3": make_sd3, "z_image": make_z_image, "flux1": make_flux1, "qwen_image": make_qwen_image}
MAKERS |= {"flux2": make_flux2, "krea2": make_krea2, "chroma": make_chroma}
NAMES = set(MAKERS)
if int(version("transformers").split(".")[0]) < 5:  # older ones lack classes of theirs, which the families say
    MAKERS = {}


def full_size_layers(family):
    """The weight shape of every layer that the trainer puts a LoRA on, in a model of full size."""
    import diffusers

    with torch.device("meta"):
        shapes = base_shapes(getattr(diffusers, family.denoiser).from_config(read_family(family)[family.part]))
    return {name: shape for name, shape in shapes.items() if name.endswith(family.targets)}


def make_t5(length=512):
    """T5's tokenizer with single letters, and a small T5."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((one, -3.0) for one in LETTERS)]
    config = T5Config(vocab_size=len(vocabulary), d_model=64, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=length), T5EncoderModel(config)


def qwen_tokenizer(length=64):
    """Qwen's tokenizer with single letters, and a template for a chat without thinking."""
    from transformers import Qwen2Tokenizer

    special = {"additional_special_tokens": list(MARKS[1:]), "eos_token": "<|im_end|>", "pad_token": MARKS[0]}
    tokenizer = Qwen2Tokenizer(vocab=QWEN, merges=[], model_max_length=length, **special)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    return tokenizer


def clip_tokenizer(pad):
    """CLIP's tokenizer with single letters."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer(VOCABULARY, [], pad_token=pad, model_max_length=77)


def write(folder, pipeline, models, tokenizers, **schedule):
    """Write a pipeline folder."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

    parts = {"vae": AutoencoderKL(**VAE)} | models | tokenizers
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(**schedule)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline} | index))
    return folder


def make_flow(folder, name, **sizes):
    """Write the small model of a family."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return (MAKERS.get(name) or pytest.skip("needs newer transformers"))(folder, **sizes)
