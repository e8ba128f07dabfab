"""LoRAs for transformers of full size: every key that the trainer writes is one that the host's own loader takes."""

import json

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, Lora, save_adapter
from comfyui_ddm.training.models.family import FAMILIES, families

from ..unit.transformers import full_size_layers, make_flow
from .server import NEWER, PACK, STUBS, host_python, run_in_host

# Run in the host's Python: what its map of LoRA keys makes of diffusers' names, and the shapes of what they change.
INSPECT = """
import importlib.util, json, sys, types
from pathlib import Path
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock
for name in sys.argv[4].split():
    sys.modules[name] = MagicMock(__spec__=ModuleSpec(name, None))
if "comfy_kitchen" in sys.modules:
    sys.modules["comfy_kitchen"].int8_attention_is_available.return_value = False
    sys.modules["comfy_kitchen.tensor"].QuantizedTensor = type("QuantizedTensor", (), {})
from comfy.cli_args import args
args.cpu = True
import diffusers, torch, comfy.lora, comfy.model_detection
seen, pack = {}, sys.argv[2]
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pack.debias.adapter.lora_file import load_adapter
from pack.debias.core.error import DDMError
from pack.nodes.adapter_file import AdapterFile
from pack.nodes.native import weight_files
try:
    weight_files(Path(sys.argv[3]) / "base")
except DDMError as error:
    seen["refused"] = str(error)
for name, (kind, config) in json.load(open(sys.argv[1])).items():
    with torch.device("meta"):
        plain = dict(getattr(diffusers, kind).from_config(config).state_dict())
    if name == "flux2":  # which the host's converter does not expect to be without
        plain["x_embedder.bias"] = plain["x_embedder.weight"][:, 0]
    # What the host knows a model by, as its authors call it.
    tensors = comfy.model_detection.convert_diffusers_mmdit(plain, "") or plain
    if name == "flux2":
        tensors["double_stream_modulation_img.lin.weight"] = plain["double_stream_modulation_img.linear.weight"]
    if name == "chroma":
        tensors["distilled_guidance_layer.norms.0.scale"] = plain["distilled_guidance_layer.norms.0.weight"]
    if name == "krea2" and hasattr(comfy.utils, "krea2_to_diffusers"):
        own = comfy.utils.krea2_to_diffusers({"layers": config["num_layers"]})
        tensors = {to: plain[key] for key, to in own.items() if key in plain}
        tensors["txtfusion.layerwise_blocks.0.prenorm.scale"] = plain["text_fusion.layerwise_blocks.0.norm1.weight"]
    found = comfy.model_detection.model_config_from_unet(tensors, "")
    if not found:
        continue
    found.set_inference_dtype(torch.bfloat16, None)
    model = found.get_model({}, "", device="meta")
    sizes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    seen[name] = {}
    for key, to in comfy.lora.model_lora_keys_unet(model, {}).items():
        whole, part, *_ = to if isinstance(to, tuple) else (to, None)
        if key.startswith("transformer.") and whole in sizes:
            shape = list(sizes[whole])
            # Queries, keys and values are rows of one matrix there.
            if part is not None:
                _, start, rows = part
                shape[0] = rows if start + rows <= shape[0] else None
            seen[name][key] = shape
    patcher = types.SimpleNamespace(model=model, attachments={})
    AdapterFile(name, {}, load_adapter(f"{sys.argv[3]}/{name}.safetensors")).check(patcher)
print(json.dumps(seen))
"""
FLOWS = [family for family in families() if family.part == "transformer"]


@pytest.fixture(scope="module")
def models():
    """The transformers' classes and configurations at full size."""
    return {
        family.name: (family.denoiser, json.loads((FAMILIES / f"{family.name}.json").read_text("utf-8"))["transformer"])
        for family in FLOWS
    }


@pytest.fixture(scope="module")
def layers():
    """Weight shape of every layer that the trainer puts a LoRA on."""
    return {family.name: full_size_layers(family) for family in FLOWS}


@pytest.fixture(scope="module", params=["", "newer"])
def seen(request, host, models, layers, tmp_path_factory):
    """What the host, or a newer one, knows; our own node has checked an adapter against each model on the way."""
    if request.param and not (NEWER / "comfy").is_dir():
        pytest.skip(f"there is no newer ComfyUI in {NEWER}")
    folder = tmp_path_factory.mktemp("seen")
    for name, shapes in layers.items():
        lora = {layer: Lora(torch.zeros(1, shape[1]), torch.zeros(shape[0], 1), 1.0) for layer, shape in shapes.items()}
        save_adapter(folder / f"{name}.safetensors", lora, AdapterCard(architecture="of a transformer/lora"))
    make_flow(folder / "base", FLOWS[0].name)
    path = folder / "models.json"
    # An older host takes some that it does not know for others.
    known = {name: one for name, one in models.items() if request.param or name in ("sd3", "flux1")}
    path.write_text(json.dumps(known))
    place, stubs = (NEWER, STUBS) if request.param else (host, "")
    printed = run_in_host(place, INSPECT, str(path), str(PACK), str(folder), stubs, python=host_python(host))
    return json.loads(printed.splitlines()[-1]) | {"newer": bool(request.param)}


@pytest.mark.parametrize("family", FLOWS, ids=lambda family: family.name)
def test_the_host_takes_every_key_of_a_transformers_lora(seen, layers, family):
    if family.name not in seen and not seen["newer"]:
        pytest.skip(f"this ComfyUI does not know {family.title}")
    ours = {f"transformer.{name}": list(shape) for name, shape in layers[family.name].items()}
    assert len(ours) >= 100
    assert {name: seen[family.name].get(name) for name in ours} == ours


def test_our_own_loader_of_folders_says_that_it_opens_u_nets_only(seen):
    assert "opens U-Nets only" in seen["refused"]
