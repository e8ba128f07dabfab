"""The embedded model as native objects, seen from inside of the host."""

import json

import pytest

from .server import PACK, run_in_host

LOOK = """
import importlib.util, json, sys
from comfy.cli_args import args
args.cpu = True
import torch, comfy.lora
pack = sys.argv[1]
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pathlib import Path
from pack.nodes.native import BASE_HASH, load_folder
with torch.inference_mode():  # as nodes run
    model, clip, vae = load_folder(Path(pack, "examples", "tiny_people"))
patchers = {"model": model, "clip": clip.patcher, "vae": vae.patcher}
seen = {
    "hash": model.clone().attachments[BASE_HASH],
    "dtypes": [str(next(one.model.parameters()).dtype) for one in patchers.values()],
    "scale": model.model.latent_format.scale_factor,
    "fresh": {},
}
for name, patcher in patchers.items():
    if hasattr(patcher, "cached_patcher_init"):
        with torch.inference_mode(False):
            copy = patcher.clone(force_deepcopy=True)
            first, second = (next(iter(one.model.state_dict().items())) for one in (patcher, copy))
            same = first[0] == second[0] and torch.equal(first[1].float(), second[1].float())
            seen["fresh"][name] = same and copy.model is not patcher.model and not second[1].is_inference()
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(host):
    return json.loads(run_in_host(host, LOOK, str(PACK)).splitlines()[-1])


def test_the_model_carries_the_hash_that_adapters_remember(seen):
    from comfyui_ddm.debias.adapter.lora_file import load_adapter

    card = load_adapter(PACK / "examples" / "adapters" / "tiny_people_fair.safetensors").card
    assert seen["hash"] == card.base_hash


def test_on_a_cpu_everything_is_in_single_precision(seen):
    assert seen["dtypes"] == ["torch.float32"] * 3


def test_latents_have_the_scale_of_the_models_own_vae(seen):
    config = json.loads((PACK / "examples" / "tiny_people" / "vae" / "config.json").read_text())
    assert seen["scale"] == config["scaling_factor"]


def test_a_host_that_asks_for_a_fresh_copy_gets_one_that_can_be_trained(seen):
    assert all(seen["fresh"].values())
