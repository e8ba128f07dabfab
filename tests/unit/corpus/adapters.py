"""Adapters, LoRAs of other trainers, probes, heads and modules."""

import json
import math

import torch
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, check_layers, kohya_name, load_adapter, parse_adapter
from comfyui_ddm.debias.core.io import load_tensors, save_tensors
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier
from comfyui_ddm.debias.methods.invariant_module import InvariantModule
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.hosts.adapter_card import LoadedCard
from comfyui_ddm.training.models.soft_tokens import SoftTokens

from . import files, named, refused, used

LAYER = kohya_name(files.LINEAR)


def spoiled(path, number=math.nan):
    """The file with its last tensor full of a number."""
    tensors, metadata = load_tensors(path)
    last = tensors[sorted(tensors)[-1]]
    tensors[sorted(tensors)[-1]] = torch.full_like(last, number)
    save_tensors(path, tensors, metadata)
    return path


def with_card(path, **values):
    """An adapter whose card says these JSON texts."""
    tensors, metadata = load_tensors(files.adapter(path))
    save_tensors(path, tensors, metadata | {f"ddm.{name}": value for name, value in values.items()})
    return path


@refused("A", "is not finite")
def an_adapter_of_nan(folder):
    load_adapter(spoiled(files.adapter(folder / "a.safetensors")))


@refused("A", "is not finite")
def an_adapter_of_infinities(folder):
    load_adapter(spoiled(files.adapter(folder / "a.safetensors"), math.inf))


@refused("hostile", "more than 32 MiB would have to be said")
def more_captions_than_a_file_can_hold(folder):
    files.adapter(folder / "a.safetensors", concepts=["a" * (1 << 20)] * 33)


@refused("A", "is not finite")
def a_scale_of_nan(folder):
    load_adapter(files.lora(folder / "a.safetensors", alpha=torch.tensor(math.nan)))


@refused("A", "is not finite")
def a_probe_of_nan(folder):
    Probe.load(spoiled(files.probe(folder / "a.safetensors")))


@refused("A", "is not finite")
def a_head_of_nan(folder):
    HSpaceClassifier.load(spoiled(files.head(folder / "a.safetensors")))


@refused("A", "is not finite")
def a_module_of_nan(folder):
    InvariantModule.load(spoiled(files.module(folder / "a.safetensors")))


@refused("A", "is not finite")
def an_embedding_of_nan(folder):
    SoftTokens.load(spoiled(files.embedding(folder / "a.safetensors")))


@used("C")
def a_plain_lora_of_another_trainer(folder):
    return set(load_adapter(files.lora(folder / "a.safetensors")).modules) == {LAYER}


@used("C")
def a_linear_layer_kept_as_a_convolution_of_one_by_one(folder):
    parts = {"lora_down.weight": torch.ones(2, 32, 1, 1), "lora_up.weight": torch.ones(32, 2, 1, 1)}
    adapter = load_adapter(files.lora(folder / "a.safetensors", **parts))
    return check_layers(adapter, "", {LAYER: (32, 32)}) is None


@used("C")
def half_precision_in_8_bits(folder):
    parts = {"lora_down.weight": torch.ones(2, 32).to(torch.float8_e4m3fn)}
    return load_adapter(files.lora(folder / "a.safetensors", **parts)).modules[LAYER].rank == 2


@named("C", r"embeddings \(1 tensors\), which are left out")
def a_lora_with_embeddings(folder):
    adapter = load_adapter(files.lora(folder / "a.safetensors", "bundle_emb.smile.string_to_param.*"))
    return check_layers(adapter, "", {LAYER: (32, 32)})


@refused("C", "is a DoRA, which is not read here")
def a_dora(folder):
    load_adapter(files.lora(folder / "a.safetensors", dora_scale=torch.ones(32, 1)))


@refused("C", "is a LoHa")
def a_lora_half_of_which_is_a_loha(folder):
    load_adapter(files.lora(folder / "a.safetensors", "lora_unet_conv_in.hada_w1_a"))


@refused("C", "is a LoKr")
def a_lora_half_of_which_is_a_lokr(folder):
    load_adapter(files.lora(folder / "a.safetensors", "lora_unet_conv_in.lokr_w1"))


@refused("C", "also replaces weights")
def a_lora_that_changes_a_norm(folder):
    load_adapter(files.lora(folder / "a.safetensors", "lora_unet_conv_norm_out.w_norm"))


@refused("C", "no part of a LoRA that is known")
def a_key_that_nobody_knows(folder):
    load_adapter(files.lora(folder / "a.safetensors", "lora_unet_conv_in.mystery"))


@refused("C", "holds the layer transformer.* twice")
def a_layer_by_two_names(folder):
    tensors, _ = load_tensors(files.lora(folder / "a.safetensors"))
    key = "transformer." + files.LINEAR
    more = {f"{key}.lora_A.weight": torch.ones(2, 32), f"{key}.lora_B.weight": torch.zeros(32, 2)}
    save_tensors(folder / "a.safetensors", tensors | more)
    load_adapter(folder / "a.safetensors")


@refused("C", "is no number")
def a_scale_that_is_complex(folder):
    tensors, metadata = load_tensors(files.lora(folder / "a.safetensors"))
    parse_adapter(folder, tensors | {f"{LAYER}.alpha": torch.tensor(1 + 1j)}, metadata)


@refused("C", "no up matrix that fits")
def a_lora_of_rank_0(folder):
    parts = {"lora_down.weight": torch.ones(0, 32), "lora_up.weight": torch.ones(32, 0)}
    load_adapter(files.lora(folder / "a.safetensors", **parts))


@refused("C", "not a LoRA in kohya's format")
def a_lora_in_diffusers_names(folder):
    key = "unet." + files.LINEAR
    tensors = {f"{key}.lora_A.weight": torch.ones(2, 32), f"{key}.lora_B.weight": torch.ones(32, 2)}
    save_tensors(folder / "a.safetensors", tensors)
    load_adapter(folder / "a.safetensors")


@refused("C", "made for another base model")
def a_lora_of_another_shape(folder):
    check_layers(load_adapter(files.lora(folder / "a.safetensors")), "", {LAYER: (64, 32)})


@refused("hostile", "is a pickle file")
def a_pickle(folder):
    (folder / "a.pt").write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    load_adapter(folder / "a.pt")


@refused("hostile", "not a complete safetensors file")
def a_pickle_by_another_name(folder):
    (folder / "a.safetensors").write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    load_adapter(folder / "a.safetensors")


@refused("hostile", "not a complete safetensors file")
def a_header_that_claims_a_terabyte(folder):
    (folder / "a.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    load_adapter(folder / "a.safetensors")


@refused("hostile", "cannot be read as JSON")
def a_card_that_is_nested_deeply(folder):
    load_adapter(with_card(folder / "a.safetensors", measured="[" * 100_000))


@refused("hostile", "cannot be read as JSON")
def a_format_of_infinity(folder):
    load_adapter(with_card(folder / "a.safetensors", format_version="Infinity"))


@refused("hostile", "cannot be read as JSON")
def half_a_character_in_a_card(folder):
    load_adapter(with_card(folder / "a.safetensors", title='"\\ud800"'))


@refused("hostile", "measured is not what it should be")
def a_measurement_without_its_points(folder):
    load_adapter(with_card(folder / "a.safetensors", measured='{"attribute": "gender"}'))


@refused("hostile", "measured is not what it should be")
def a_measurement_whose_points_are_none(folder):
    point = {"alpha": "x", "images": None}
    load_adapter(with_card(folder / "a.safetensors", measured=json.dumps(files.CARD.measured | {"points": [point]})))


@used("hostile")
def markup_in_a_title(folder):
    card = AdapterCard(title="<script>alert(1)</script>", groups="</script>", concepts=["<b>"])
    panel = LoadedCard("<i>", 1.0, load_adapter(files.adapter(folder / "a.safetensors", card)).card, None).panel()
    return json.loads(json.dumps(panel, allow_nan=False))["title"] == "<i>"


@refused("hostile", "does not name the model whose features it reads")
def a_probe_that_names_a_path(folder):
    Probe.load(files.linear_probe(folder / "a.safetensors", "CLIP ../../secret (abcd)"))


@refused("hostile", "does not name the model whose features it reads")
def a_probe_that_names_a_share_on_the_network(folder):
    Probe.load(files.linear_probe(folder / "a.safetensors", "\\\\host\\share"))


@refused("hostile", "out of range|not complete")
def a_probe_that_claims_to_be_wide(folder):
    tensors, metadata = load_tensors(files.probe(folder / "a.safetensors"))
    metadata |= {"ddm.architecture": '{"kind": "network", "width": 60000}'}
    save_tensors(folder / "a.safetensors", tensors, metadata)
    Probe.load(folder / "a.safetensors")


@refused("hostile", "not a complete head")
def a_head_whose_tables_do_not_fit(folder):
    tensors, metadata = load_tensors(files.head(folder / "a.safetensors"))
    save_tensors(folder / "a.safetensors", tensors | {"bias": torch.zeros(9)}, metadata)
    HSpaceClassifier.load(folder / "a.safetensors")


@refused("hostile", "not complete|not a complete")
def a_module_that_claims_to_be_wide(folder):
    tensors, metadata = load_tensors(files.module(folder / "a.safetensors"))
    save_tensors(folder / "a.safetensors", tensors, metadata | {"ddm.width": "8000"})
    InvariantModule.load(folder / "a.safetensors")
