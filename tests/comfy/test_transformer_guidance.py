"""Distribution guidance in the host's own transformers does what it does in our own sampler."""

import json
from contextlib import nullcontext

import pytest
import torch
from comfyui_ddm.debias.methods.distribution_guidance import Guidance
from comfyui_ddm.training.data.dataset import folder_set
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.objectives.h_space_classifier import make_head
from comfyui_ddm.training.sampling.guidance import SamplingGuidance
from safetensors.torch import load_file, save_file

from ..unit.component_files import ORIGINAL
from ..unit.runs import write_folder
from ..unit.transformers import make_flow
from .server import NEWER, PACK, STUBS, host_python, run_in_host

STEPS = 4
# Run in the host's Python: a small model of the host's own class, guided and sampled by the host.
SAMPLE = """
import importlib.util, json, sys
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock
for name in sys.argv[3].split():
    sys.modules[name] = MagicMock(__spec__=ModuleSpec(name, None))
if "comfy_kitchen" in sys.modules:
    sys.modules["comfy_kitchen"].int8_attention_is_available.return_value = False
    sys.modules["comfy_kitchen.tensor"].QuantizedTensor = type("QuantizedTensor", (), {})
from comfy.cli_args import args
args.cpu = True
import comfy.model_patcher, comfy.sample, comfy.samplers, comfy.supported_models, torch
from safetensors.torch import load_file, save_file
pack = sys.argv[2]
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pack.debias.methods.distribution_guidance import Guidance
from pack.debias.methods.h_space_classifier import HSpaceClassifier
from pack.nodes.distribution_guidance import patched
folder = sys.argv[1]
asked = json.load(open(folder + "/asked.json"))
given = load_file(folder + "/given.safetensors")
torch.set_grad_enabled(False)
config = getattr(comfy.supported_models, asked["kind"])(asked["config"])
config.set_inference_dtype(torch.float32, None)
model = config.get_model({}, "")
model.load_model_weights(load_file(folder + "/model.safetensors"), "")
cpu = torch.device("cpu")
plain = comfy.model_patcher.ModelPatcher(model.eval(), cpu, cpu)
head = HSpaceClassifier.load(folder + "/head.safetensors")
pooled = [{"pooled_output": given[key]} if key in given else {} for key in ("pooled text", "pooled empty")]
conds = [[[given[name], extra]] for name, extra in zip(("text", "empty"), pooled)]

def made(patcher, cfg, noise):
    return comfy.sample.sample_custom(
        patcher, noise, cfg, comfy.samplers.ksampler("euler"), given["sigmas"], *conds, torch.zeros_like(noise), seed=0,
    )

# Latents as the denoiser has them: the host scales them for the VAE.
inside = plain.model.process_latent_in
out = {}
for cfg in asked["cfg"]:
    out[f"plain {cfg}"] = inside(made(plain, cfg, given["noise"]))
    for mode in ("queue", "batch"):
        for scale in (0.0, 8.0):
            guided = patched(plain, Guidance(head, scale=scale, mode=mode))
            out[f"{mode} {scale} {cfg}"] = inside(made(guided, cfg, given["noise"]))
one = Guidance(head, mode="queue")
out["one by one 1.0"] = torch.cat([inside(made(patched(plain, one), 1.0, noise[None])) for noise in given["noise"]])
save_file({key: value.contiguous() for key, value in out.items()}, folder + "/made.safetensors")
"""
Z_IMAGE = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 1152, "cap_feat_dim": 32, "n_layers": 2}
Z_IMAGE |= {
    "n_refiner_layers": 1,
    "n_heads": 9,
    "n_kv_heads": 9,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1024, 32, 32],
}
Z_IMAGE |= {"qk_norm": True, "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True}
Z_IMAGE |= {"time_scale": 1000.0, "pad_tokens_multiple": 32}
SD3 = {"in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 2, "input_size": None, "adm_in_channels": 64}
SD3 |= {"context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128}}}
SD3 |= {"num_patches": 256, "pos_embed_max_size": 16, "qk_norm": "rms", "pos_embed_scaling_factor": None}
SD3 |= {"x_block_self_attn_layers": [0]}
MODELS = {"z_image": ("ZImage", Z_IMAGE), "sd3": ("SD3", SD3)}


@pytest.fixture(scope="module", params=["sd3", "sd3 newer", "z_image newer"])
def made(request, host, tmp_path_factory):
    """Latents that the host made, by what they were asked for, and the same of ours."""
    name, _, newer = request.param.partition(" ")
    if newer and not (NEWER / "comfy").is_dir():
        pytest.skip(f"there is no newer ComfyUI in {NEWER}")
    folder = tmp_path_factory.mktemp("guided")
    base = load_base(make_flow(folder / "base", name, **({"wide": True} if name == "z_image" else {})))
    base.mixed = False
    images = folder_set(base, read_folder(write_folder(folder / "images", count=20, rare=3)))
    head = make_head(base, images, "labels:gender")
    head.push = torch.randn(head.push.shape, generator=torch.Generator().manual_seed(0))
    head.save(folder / "head.safetensors")
    weights = ORIGINAL[name](base.denoiser.state_dict())
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "model.safetensors")
    text, empty = (base.encode_text([prompt]) for prompt in ("a doctor", ""))
    tokens = [one.tokens if one.mask is None else one.tokens[one.mask][None] for one in (text, empty)]
    solver = base.family.solver(base)
    solver.set_timesteps(STEPS)
    noise = torch.randn(4, base.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    given = {"text": tokens[0], "empty": tokens[1], "sigmas": solver.sigmas, "noise": noise}
    if text.pooled is not None:
        given |= {"pooled text": text.pooled, "pooled empty": empty.pooled}
    save_file({key: value.contiguous() for key, value in given.items()}, folder / "given.safetensors")
    kind, config = MODELS[name]
    (folder / "asked.json").write_text(json.dumps({"kind": kind, "config": config, "cfg": [1.0, 3.0]}))
    place, stubs = (NEWER, STUBS) if newer else (host, "")
    run_in_host(place, SAMPLE, str(folder), str(PACK), stubs, python=host_python(host))
    return load_file(folder / "made.safetensors"), base, head, noise, solver


def ours(base, noise, solver, cfg, guide=None):
    """Euler's steps by the base, as the host's sampler makes them."""
    x, rows = noise, len(noise)
    both = base.encode_text([""] * rows + ["a doctor"] * rows)
    steering = SamplingGuidance([guide]) if guide else None
    with torch.no_grad(), steering.on(base, ["a doctor"] * rows) if guide else nullcontext():
        for t, sigma, after in zip(solver.timesteps, solver.sigmas[:-1], solver.sigmas[1:], strict=True):
            empty, said = base.run_denoiser(torch.cat([x, x]), t, both).chunk(2)
            x = x + (after - sigma) * (empty + cfg * (said - empty))
    if guide:
        steering.count()
    return x


def far(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_hosts_transformer_is_diffusers(made, cfg):
    found, base, _, noise, solver = made
    assert far(found[f"plain {cfg}"], ours(base, noise, solver, cfg)) < 1e-3


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("mode", ["queue", "batch"])
def test_scale_0_changes_nothing_and_another_what_our_own_sampler_changes(made, mode, cfg):
    found, base, head, noise, solver = made
    assert torch.equal(found[f"{mode} 0.0 {cfg}"], found[f"plain {cfg}"])
    theirs = ours(base, noise, solver, cfg, Guidance(head, mode=mode))
    assert far(found[f"{mode} 8.0 {cfg}"], theirs) < 1e-3 < 1e-2 < far(theirs, found[f"plain {cfg}"])


def test_single_images_of_a_queue_are_counted_together_without_cfg(made):
    found, base, head, noise, solver = made
    guide = Guidance(head, mode="queue")
    theirs = torch.cat([ours(base, one[None], solver, 1.0, guide) for one in noise])
    assert far(found["one by one 1.0"], theirs) < 1e-3
