"""SDXL's LoRA layers have the names that kohya's trainer gives them, and find back to their modules."""

import json

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, Lora, kohya_name, load_adapter, save_adapter
from comfyui_ddm.debias.adapter.lora_keys import from_ldm, to_ldm
from comfyui_ddm.training.models.ldm_checkpoint import FAMILIES
from comfyui_ddm.training.models.lora import TARGETS, base_shapes
from safetensors import safe_open

from .checkpoints import unet_key


@pytest.fixture(scope="module")
def shapes():
    """Every layer of SDXL's U-Net that a LoRA can be put on."""
    from diffusers import UNet2DConditionModel

    config = json.loads((FAMILIES / "sdxl.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        return base_shapes(UNet2DConditionModel.from_config(config["unet"]))


def test_every_layer_of_sdxl_is_mapped_both_ways_without_a_loss(shapes):
    names = [kohya_name(module) for module in shapes]
    translated = [to_ldm(name) for name in names]
    assert len(names) == 794 and len(set(translated)) == len(names)
    assert not set(names) & set(translated)
    assert [from_ldm(name) for name in translated] == names


def test_the_names_are_those_of_ldms_modules(shapes):
    for module in shapes:
        name = unet_key(module + ".weight").removesuffix(".weight").replace(".", "_")
        assert to_ldm(kohya_name(module)) == "lora_unet_" + name


def test_names_as_kohyas_files_have_them():
    known = {
        "down_blocks_1_attentions_0_proj_in": "input_blocks_4_1_proj_in",
        "up_blocks_0_attentions_1_transformer_blocks_9_ff_net_2": "output_blocks_1_1_transformer_blocks_9_ff_net_2",
        "down_blocks_0_downsamplers_0_conv": "input_blocks_3_0_op",
        "mid_block_resnets_1_time_emb_proj": "middle_block_2_emb_layers_1",
        "up_blocks_0_attentions_2_proj_out": "output_blocks_2_1_proj_out",
        "up_blocks_1_upsamplers_0_conv": "output_blocks_5_2_conv",
        "up_blocks_2_resnets_0_conv_shortcut": "output_blocks_6_0_skip_connection",
    }
    assert {ours: to_ldm("lora_unet_" + ours) for ours in known} == {o: "lora_unet_" + t for o, t in known.items()}


def test_other_names_stay_as_they_are():
    for name in ("lora_te2_text_model_encoder_layers_0_mlp_fc1", "lora_unet_something_else", "conv_in"):
        assert to_ldm(name) == from_ldm(name) == name


def test_the_first_of_two_text_encoders_is_numbered():
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    assert to_ldm(name) == name.replace("te_", "te1_")
    assert from_ldm(to_ldm(name)) == from_ldm(name) == name


@pytest.mark.parametrize("architecture", ["stable-diffusion-v1/lora", "stable-diffusion-xl-v1-base/lora"])
def test_only_files_of_sdxl_have_them_and_all_are_read_alike(shapes, tmp_path, architecture):
    modules = [module for module in shapes if module.endswith(TARGETS)][::50]
    layers = {
        module: Lora(torch.rand(1, *shapes[module][1:]), torch.rand(shapes[module][0], 1), 1.0) for module in modules
    }
    layers = {m: Lora(d, u.reshape(-1, 1, *[1] * (d.ndim - 2)), a) for m, (d, u, a) in layers.items()}
    save_adapter(tmp_path / "a.safetensors", layers, AdapterCard(architecture=architecture))
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        keys, metadata = list(file.keys()), file.metadata()
    expected = [kohya_name(module) for module in modules]
    if "xl" in architecture:
        expected = [to_ldm(name) for name in expected]
    assert {key.split(".")[0] for key in keys} == set(expected)
    assert metadata["modelspec.architecture"] == architecture
    assert metadata["ss_base_model_version"] == ("sdxl_base_v1-0" if "xl" in architecture else "sd_v1")
    read = load_adapter(tmp_path / "a.safetensors").modules
    assert set(read) == {kohya_name(module) for module in modules}
    assert all(torch.equal(read[kohya_name(module)].down, layers[module].down) for module in modules)
