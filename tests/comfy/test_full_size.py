"""Models of full size, with random weights: shapes, key names, and two steps on a CPU."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load as load_safetensors

from ..unit.checkpoints import ldm_tensors, make_models
from . import graphs
from .server import PACK, run_in_host

FAMILIES = {"SD 1.5": "sd1", "SD 2.1": "sd2", "SDXL": "sdxl"}
CONFIGS = {
    kind: json.loads((PACK / "training" / "models" / "families" / f"{family}.json").read_text(encoding="utf-8"))
    for kind, family in FAMILIES.items()
}
SD15 = CONFIGS["SD 1.5"]["unet"]
# Run in the host's Python: the layers that its LoRA code knows, and what our own construction makes of the config.
INSPECT = """
import importlib.util, json, sys
from comfy.cli_args import args
args.cpu = True
import torch, comfy.lora, comfy.model_detection
from diffusers import UNet2DConditionModel
pack, (configs, files) = sys.argv[1], json.load(open(sys.argv[2]))
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pack.nodes.native import unet_config
seen = {}
for kind, config in configs.items():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config["unet"])
    found = comfy.model_detection.model_config_from_diffusers_unet(unet.state_dict())
    found.set_inference_dtype(torch.float16, None)
    model = found.get_model({}, "", device="meta")
    sizes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    keys = comfy.lora.model_lora_keys_unet(model, {})  # holds names of layers that are not there, too
    layers = {name: sizes[key] for name, key in keys.items() if name.startswith("lora_unet_") and key in sizes}
    seen[kind] = {"layers": layers, "ours": unet_config(dict(unet.config)), "host": found.unet_config}
    # A checkpoint with these keys, as the host reads it.
    tensors = {key: torch.empty(shape, device="meta") for key, shape in files[kind].items()}
    found = comfy.model_detection.model_config_from_unet(tensors, "model.diffusion_model.")
    found.set_inference_dtype(torch.float16, None)
    model = found.get_model({}, "", device="meta").diffusion_model
    seen[kind]["unet"] = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    text = found.process_clip_state_dict(dict(tensors))
    with torch.device("meta"):
        clip = found.clip_target(text).clip(device="meta", dtype=torch.float16)
    seen[kind]["clip"] = {key: tuple(value.shape) for key, value in clip.state_dict().items()}
    seen[kind]["read"] = {key: tuple(value.shape) for key, value in text.items()}
print(json.dumps(seen, default=str))
"""


@pytest.fixture(scope="module")
def files():
    """Shape of every tensor in a checkpoint of each family."""
    found = {}
    for kind, config in CONFIGS.items():
        with torch.device("meta"):
            tensors = ldm_tensors(FAMILIES[kind], make_models(config))
        found[kind] = {key: list(value.shape) for key, value in tensors.items()}
    return found


@pytest.fixture(scope="module")
def seen(host, files, tmp_path_factory):
    path = tmp_path_factory.mktemp("seen") / "models.json"
    path.write_text(json.dumps([CONFIGS, files]))
    return json.loads(run_in_host(host, INSPECT, str(PACK), str(path)).splitlines()[-1])


def lora_shapes(config):
    """Weight shape of every layer that the trainer puts a LoRA on, by module name."""
    from comfyui_ddm.training.models.lora import TARGETS, base_shapes
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    return {name: shape for name, shape in base_shapes(unet).items() if name.endswith(TARGETS)}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_host_knows_every_layer_that_the_trainer_changes(seen, kind):
    from comfyui_ddm.debias.adapter.lora_file import kohya_name
    from comfyui_ddm.debias.adapter.lora_keys import to_ldm

    shapes = {kohya_name(name): list(shape) for name, shape in lora_shapes(CONFIGS[kind]["unet"]).items()}
    assert len(shapes) > 200
    known = seen[kind]["layers"]
    assert {name: known.get(name) for name in shapes} == shapes
    if kind == "SDXL":  # the names in its files
        assert {to_ldm(name): known.get(to_ldm(name)) for name in shapes} == {to_ldm(n): s for n, s in shapes.items()}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_checkpoint_of_these_keys_is_one_to_the_host(seen, files, kind):
    """So what the trainer reads from a checkpoint is what the host reads from it."""
    prefix = "model.diffusion_model."
    unet = {key.removeprefix(prefix): shape for key, shape in files[kind].items() if key.startswith(prefix)}
    assert seen[kind]["unet"] == unet
    # The host's encoders have a projection and a scale of their own, which not every file holds.
    missing = {key for key in seen[kind]["clip"].keys() - seen[kind]["read"].keys()}
    assert all(key.endswith(("text_projection.weight", "logit_scale")) for key in missing)


@pytest.mark.parametrize("kind", ["SD 1.5", "SD 2.1"])
def test_our_own_construction_agrees_with_the_hosts(seen, kind):
    ours, theirs = seen[kind]["ours"], seen[kind]["host"]
    alike = ("model_channels", "channel_mult", "num_res_blocks", "transformer_depth", "transformer_depth_output")
    alike += ("transformer_depth_middle", "context_dim", "use_linear_in_transformer", "num_heads", "num_head_channels")
    assert {name: ours[name] for name in alike} == {name: theirs[name] for name in alike}


# Run in the host's Python: what its loader's own functions make of weights of zeros, by the host's names for them.
PATCH = """
import json, sys
from comfy.cli_args import args
args.cpu = True
import torch, comfy.lora, comfy.model_detection, comfy.sdxl_clip, comfy.utils
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
lora, config, out = sys.argv[1:]
with torch.device("meta"):
    unet = UNet2DConditionModel.from_config(json.load(open(config)))
found = comfy.model_detection.model_config_from_diffusers_unet(unet.state_dict())
found.set_inference_dtype(torch.float16, None)
model = found.get_model({}, "", device="meta")
clip = comfy.sdxl_clip.SDXLClipModel(device="meta", dtype=torch.float16)
keys = comfy.lora.model_lora_keys_clip(clip, comfy.lora.model_lora_keys_unet(model, {}))
sizes = {key: value.shape for part in (model, clip) for key, value in part.state_dict().items()}
patched = {
    key: comfy.lora.calculate_weight([(0.7, patch, 1.0, None, None)], torch.zeros(sizes[key]), key)
    for key, patch in comfy.lora.load_lora(load_file(lora), keys).items()
}
save_file(patched, out)
names = comfy.utils.unet_to_diffusers(found.unet_config)
print(json.dumps({name: "diffusion_model." + key for name, key in names.items()}))
"""


def test_the_host_adds_to_each_layer_of_sdxl_what_the_trainer_learnt_for_it(host, tmp_path):
    from comfyui_ddm.debias.adapter.lora_file import AdapterCard, Lora, save_adapter

    unet = lora_shapes(CONFIGS["SDXL"]["unet"])
    chosen = [name for number, name in enumerate(sorted(unet)) if number % 40 == 0]
    chosen += [name for name in unet if name.startswith("mid_block.resnets") or "shortcut" in name][:3]
    shapes = {name: unet[name] for name in chosen}
    text = {
        "text_encoder.text_model.encoder.layers.3.self_attn.q_proj": "clip_l.transformer.text_model.encoder.layers.3"
        ".self_attn.q_proj.weight",
        "text_encoder_2.text_model.encoder.layers.30.mlp.fc1": "clip_g.transformer.text_model.encoder.layers.30.mlp"
        ".fc1.weight",
    }
    shapes |= dict(zip(text, [(768, 768), (5120, 1280)], strict=True))
    generator = torch.Generator().manual_seed(0)
    layers = {
        name: Lora(
            torch.randn(2, *shape[1:], generator=generator),
            torch.randn(shape[0], 2, *[1] * (len(shape) - 2), generator=generator),
            3.0,
        )
        for name, shape in shapes.items()
    }
    lora, config, out = tmp_path / "xl.safetensors", tmp_path / "unet.json", tmp_path / "patched.safetensors"
    save_adapter(lora, layers, AdapterCard(architecture="stable-diffusion-xl-v1-base/lora"))
    config.write_text(json.dumps(CONFIGS["SDXL"]["unet"]))
    said = run_in_host(host, PATCH, str(lora), str(config), str(out))
    keys = {name: text.get(name) for name in layers} | {
        name.removesuffix(".weight"): key for name, key in json.loads(said.splitlines()[-1]).items()
    }
    patched = load_safetensors(out.read_bytes())
    assert set(patched) == {keys[name] for name in layers} and len(layers) > 15
    for name, (down, up, alpha) in layers.items():
        learnt = 0.7 * alpha / 2 * (up.flatten(1) @ down.flatten(1)).reshape(shapes[name])
        assert torch.allclose(patched[keys[name]], learnt, atol=1e-4), name


def save_random(model, path, std=0.02):
    """Write random half-precision weights of a model on the meta device; norms are 1 and 0."""
    from comfyui_ddm.debias.core.io import save_tensors

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, value in model.state_dict().items():
        if value.ndim == 1:
            tensors[name] = torch.full(value.shape, float("norm" in name and name.endswith("weight"))).half()
        elif value.is_floating_point():
            tensors[name] = torch.empty(value.shape, dtype=torch.float16).normal_(0, std, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors)


def save_model(folder):
    """A folder in diffusers layout, of SD 1.5's shapes."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vae = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4, "sample_size": 512}
    vae |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    with torch.device("meta"):
        parts = {
            "unet": (UNet2DConditionModel.from_config(SD15), "diffusion_pytorch_model"),
            "vae": (AutoencoderKL.from_config(vae), "diffusion_pytorch_model"),
            "text_encoder": (CLIPTextModel(text), "model"),
        }
    for part, (model, stem) in parts.items():
        save_random(model, folder / part / f"{stem}.safetensors")
        model.config.save_pretrained(folder / part) if part == "text_encoder" else model.save_config(folder / part)
    DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')


@pytest.fixture
def sd15(server):
    """Name of a model folder, 2 GB; gone after the test."""
    folder = server.base / "models" / "diffusers" / "sd15"
    save_model(folder)
    yield folder.name
    shutil.rmtree(folder)


def save_lora(path):
    """An adapter for it, of another base's hash, that changes every layer."""
    from comfyui_ddm.debias.adapter.lora_file import AdapterCard, Lora, save_adapter

    generator = torch.Generator().manual_seed(1)
    layers = {
        name: Lora(
            torch.randn(4, *shape[1:], generator=generator) * 0.02,
            torch.randn(shape[0], 4, *[1] * (len(shape) - 2), generator=generator) * 0.02,
            4.0,
        )
        for name, shape in lora_shapes(SD15).items()
    }
    save_adapter(path, layers, AdapterCard(base_hash="0" * 64))


@pytest.mark.slow
def test_a_model_of_sd_15_shapes_takes_an_adapter_and_makes_an_image(server, sd15):
    name = "sd15.safetensors"
    save_lora(server.base / "models" / "loras" / name)

    def latent(graph):
        outputs = server.run(graph, timeout=500)
        assert server.view(outputs["image"]["images"][0])
        return load_safetensors(server.view(outputs["latent"]["latents"][0]))["latent_tensor"]

    before = len(server.log())
    small = {"steps": 2, "batch_size": 1, "resolution": 256}
    base = latent(graphs.load(sd15) | graphs.sample(**small))
    ours = latent(graphs.load(sd15) | graphs.adapter(1.0, name) | graphs.sample("adapter", **small))
    stock = latent(graphs.load(sd15) | graphs.stock_lora(1.0, name) | graphs.sample("lora", **small))
    assert base.isfinite().all() and ours.isfinite().all()
    assert not torch.equal(ours, base)
    assert torch.equal(ours, stock)
    said = server.log()[before:].lower()
    lines = [line for line in said.splitlines() if "not loaded" in line or "missing" in line]
    # What the host says of every SD 1.5 text encoder: it has no projection.
    assert [line for line in lines if not line.endswith("clip missing: ['text_projection.weight']")] == []
    prompt = graphs.load(sd15) | graphs.adapter(0.0, name) | graphs.sample("adapter", **small)
    assert "trained on another base" in server.run(prompt, timeout=500)["adapter"]["text"][0]
