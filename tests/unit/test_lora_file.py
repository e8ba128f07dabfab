"""The adapter file: kohya's names, a card that survives, refusals in sentences."""

import errno
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import (
    Adapter,
    AdapterCard,
    Lora,
    check_base,
    check_layers,
    content_hash,
    kohya_name,
    load_adapter,
    save_adapter,
    update_card,
)
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import check_output, read_metadata, save_tensors

LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONV = "mid_block.resnets.0.conv1"
SHAPES = {LINEAR: (8, 6), CONV: (5, 3, 3, 3)}
CARD = AdapterCard(
    groups='words:"man|woman"',
    target={"man": 0.5, "woman": 0.5},
    recommended_alpha=0.9,
    base_hash="ab" * 32,
    concepts=["a firefighter", "a café owner"],
    predicted=[{"alpha": 0.0, "shares": [0.8, 0.2], "fd": 0.4, "ess": 1.0}],
    training={"steps": 300, "seed": 1},
)
MEASURED = {"attribute": "gender", "classes": ["man", "woman"], "prompts": 2, "steps": 20, "cfg": 3.0}
MEASURED |= {"recommended_alpha": 0.7, "points": []}


@pytest.fixture
def lora() -> dict[str, Lora]:
    random = torch.Generator().manual_seed(0)
    return {
        LINEAR: Lora(torch.randn(4, 6, generator=random), torch.randn(8, 4, generator=random), 4.0),
        CONV: Lora(torch.randn(4, 3, 3, 3, generator=random), torch.randn(5, 4, 1, 1, generator=random), 2.0),
    }


def test_names_are_kohyas():
    assert kohya_name(LINEAR) == "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    for inner in ("encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.0.self_attn.q_proj"):
        assert kohya_name("text_encoder." + inner) == "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
        assert kohya_name("text_encoder_2." + inner) == "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"
    assert kohya_name("text_encoder_2.text_projection") == "lora_te2_text_projection"


def test_a_saved_adapter_loads_exactly(lora, tmp_path):
    save_adapter(tmp_path / "a.safetensors", lora, CARD)
    adapter = load_adapter(tmp_path / "a.safetensors")
    assert adapter.card == CARD
    assert set(adapter.modules) == {kohya_name(name) for name in lora}
    for name, layer in lora.items():
        loaded = adapter.modules[kohya_name(name)]
        assert torch.equal(loaded.down, layer.down)
        assert torch.equal(loaded.up, layer.up)
        assert loaded.alpha == layer.alpha


def test_saving_twice_gives_the_same_bytes(lora, tmp_path):
    save_adapter(tmp_path / "a.safetensors", lora, CARD)
    save_adapter(tmp_path / "b.safetensors", dict(reversed(lora.items())), CARD)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_new_card_leaves_the_matrices_and_the_content_hash(lora, tmp_path):
    path = tmp_path / "a.safetensors"
    save_adapter(path, lora, CARD)
    before, hashed = load_adapter(path), content_hash(path)
    card = replace(CARD, recommended_alpha=0.7, measured=MEASURED)
    update_card(path, card)
    assert load_adapter(path).card == card
    assert content_hash(path) == hashed
    for name, layer in load_adapter(path).modules.items():
        assert torch.equal(layer.down, before.modules[name].down)
    assert read_metadata(path)["modelspec.title"] == CARD.title
    save_adapter(path, lora | {CONV: lora[CONV]._replace(alpha=3.0)}, CARD)
    assert content_hash(path) != hashed


def test_metadata_is_what_other_tools_read(lora, tmp_path):
    save_adapter(tmp_path / "a.safetensors", lora, CARD)
    metadata = read_metadata(tmp_path / "a.safetensors")
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["ss_network_dim"] == "4"
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["ss_seed"] == "1"
    assert json.loads(metadata["ddm.target"]) == CARD.target


def test_a_foreign_lora_loads_without_a_card(lora, tmp_path):
    layer = lora[LINEAR]
    name = kohya_name(LINEAR)
    save_tensors(
        tmp_path / "a.safetensors", {f"{name}.lora_down.weight": layer.down, f"{name}.lora_up.weight": layer.up}
    )
    adapter = load_adapter(tmp_path / "a.safetensors")
    assert adapter.card is None
    assert adapter.modules[name].alpha == layer.rank


def test_unknown_fields_of_a_card_are_ignored_but_a_newer_format_is_refused():
    metadata = CARD.to_metadata()
    assert AdapterCard.from_metadata(metadata | {"ddm.mood": '"good"'}) == CARD
    with pytest.raises(DDMError, match="Update"):
        AdapterCard.from_metadata(metadata | {"ddm.format_version": "2"})
    with pytest.raises(DDMError, match="cannot be read"):
        AdapterCard.from_metadata(metadata | {"ddm.target": "{"})


def test_an_adapter_of_the_same_base_fits_without_a_warning(lora):
    adapter = Adapter({kohya_name(name): layer for name, layer in lora.items()}, CARD)
    assert check_base(adapter, CARD.base_hash, SHAPES) is None


def test_an_adapter_of_another_base_fits_with_a_warning(lora):
    adapter = Adapter({kohya_name(name): layer for name, layer in lora.items()}, CARD)
    assert "another base" in check_base(adapter, "cd" * 32, SHAPES)
    assert check_base(replace(adapter, card=None), "cd" * 32, SHAPES) is None


def test_an_adapter_of_another_shape_is_refused(lora):
    adapter = Adapter({kohya_name(name): layer for name, layer in lora.items()}, CARD)
    with pytest.raises(DDMError, match="8×6, here they are 8×12"):
        check_base(adapter, CARD.base_hash, SHAPES | {LINEAR: (8, 12)})
    with pytest.raises(DDMError, match="no layer lora_unet_mid_block"):
        check_base(adapter, CARD.base_hash, {LINEAR: (8, 6)})


def test_text_encoder_layers_are_compared_when_their_shapes_are_given():
    text = "text_encoder.encoder.layers.0.mlp.fc1"
    adapter = Adapter({kohya_name(text): Lora(torch.ones(2, 6), torch.ones(8, 2), 2.0)})
    assert check_base(adapter, "", SHAPES) is None
    with pytest.raises(DDMError, match="another base"):
        check_base(adapter, "", {text: (8, 7)})


def test_a_truncated_adapter_is_a_sentence(lora, tmp_path):
    path = tmp_path / "a.safetensors"
    save_adapter(path, lora, CARD)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DDMError, match="truncated"):
        load_adapter(path)


def test_a_file_that_is_no_lora_is_refused(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"conv.weight": torch.ones(2)})
    with pytest.raises(DDMError, match="not a LoRA"):
        load_adapter(tmp_path / "a.safetensors")


PLAIN = {"lora_unet_x.lora_down.weight": torch.ones(2, 3), "lora_unet_x.lora_up.weight": torch.ones(4, 2)}


@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("lora_unet_x.dora_scale", "a DoRA"),
        ("lora_unet_y.hada_w1_a", "a LoHa"),
        ("lora_unet_y.lokr_w2", "a LoKr"),
        ("lora_unet_y.oft_blocks", "an OFT"),
        ("lora_unet_y.a1.weight", "a GLoRA"),
        ("lora_unet_y.on_input", "an IA³"),
        ("lora_unet_x.lora_mid.weight", "a LoCon with decomposed kernels"),
        ("lora_unet_y.diff", "a LoRA that also replaces weights"),
        ("lora_unet_y.w_norm", "a LoRA that also replaces weights"),
    ],
)
def test_a_lora_of_another_method_is_refused_by_its_name_and_never_read_by_half(tmp_path, key, method):
    more = {key: torch.ones(1), key.partition(".")[0] + ".alpha": torch.ones(())}
    for tensors in (more, PLAIN | more):
        save_tensors(tmp_path / "a.safetensors", tensors)
        with pytest.raises(DDMError, match=f"is {method}, which is not read here: without its {re.escape(key)}"):
            load_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "more",
    [
        {"lora_unet_x.scalar": torch.ones(())},
        {"lora_unet_y.alpha": torch.ones(())},
        {"lora_unet_y.lora_up.weight": torch.ones(4, 2)},
        {"model.diffusion_model.out.2.bias": torch.ones(4)},
    ],
)
def test_a_key_that_is_not_known_is_not_passed_over(tmp_path, more):
    save_tensors(tmp_path / "a.safetensors", PLAIN | more)
    with pytest.raises(DDMError, match=f"holds {re.escape(*more)}, which is no part of a LoRA that is known"):
        load_adapter(tmp_path / "a.safetensors")


def test_embeddings_that_a_lora_brings_are_named(tmp_path):
    save_tensors(tmp_path / "a.safetensors", PLAIN | {"bundle_emb.smile.string_to_param.*": torch.ones(1, 8)})
    warning = check_layers(load_adapter(tmp_path / "a.safetensors"), "", {"lora_unet_x": (4, 3)})
    assert warning == "The file also brings embeddings (1 tensors), which are left out."


@pytest.mark.parametrize("kernel", [(), (1, 1)])
@pytest.mark.parametrize("held", [(), (1, 1)])
def test_a_convolution_of_one_by_one_is_a_linear_layer_in_some_files(tmp_path, kernel, held):
    down, up = torch.ones(2, 3).view(2, 3, *held), torch.ones(4, 2)
    save_tensors(tmp_path / "a.safetensors", {"lora_unet_x.lora_down.weight": down, "lora_unet_x.lora_up.weight": up})
    adapter = load_adapter(tmp_path / "a.safetensors")
    assert check_layers(adapter, "", {"lora_unet_x": (4, 3, *kernel)}) is None
    with pytest.raises(DDMError, match="another base"):
        check_layers(adapter, "", {"lora_unet_x": (4, 3, 3, 3)})


def test_a_layer_under_two_names_is_refused(tmp_path):
    first, second = "lora_unet_input_blocks_4_1_proj_in", "lora_unet_down_blocks_1_attentions_0_proj_in"
    twice = {
        key.replace("lora_unet_x", name): value.clone() for name in (first, second) for key, value in PLAIN.items()
    }
    save_tensors(tmp_path / "a.safetensors", twice)
    with pytest.raises(DDMError, match=f"the layer {second} twice"):
        load_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (torch.ones(0, 3), torch.ones(4, 0)),  # of rank 0
        (torch.ones(2, 3), torch.ones(0, 2)),
        (torch.ones(2, 3), torch.ones(4, 2, 3, 3)),
        (torch.ones(2, 3, dtype=torch.int8), torch.ones(4, 2, dtype=torch.int8)),
        (torch.ones(2), torch.ones(2)),
        (torch.ones(()), torch.ones(4, 2)),
    ],
)
def test_matrices_that_are_no_update_are_refused(tmp_path, down, up):
    save_tensors(tmp_path / "a.safetensors", {"lora_unet_x.lora_down.weight": down, "lora_unet_x.lora_up.weight": up})
    with pytest.raises(DDMError, match="no up matrix that fits"):
        load_adapter(tmp_path / "a.safetensors")


def test_a_lora_without_its_other_half_is_refused(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"lora_unet_x.lora_down.weight": torch.ones(2, 2)})
    with pytest.raises(DDMError, match="no up matrix"):
        load_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_a_pickle_is_refused_with_a_hint(tmp_path, suffix):
    path = (tmp_path / "a").with_suffix(suffix)
    path.write_bytes(b"\x80\x04")
    with pytest.raises(DDMError, match=r"Convert it to .safetensors"):
        load_adapter(path)


def test_only_finite_adapters_with_layers_are_saved_as_safetensors(lora, tmp_path):
    with pytest.raises(DDMError, match="diverged"):
        save_adapter(
            tmp_path / "a.safetensors", lora | {CONV: Lora(torch.full((1, 1), torch.nan), torch.ones(1, 1), 1)}
        )
    with pytest.raises(DDMError, match="no layers"):
        save_adapter(tmp_path / "a.safetensors", {})
    with pytest.raises(DDMError, match="Change the name"):
        save_adapter(tmp_path / "a.pt", lora)
    assert not list(tmp_path.iterdir())


def test_what_may_be_trained_to_may_be_saved_to_whatever_the_case_of_its_ending(lora, tmp_path):
    path = tmp_path / "a.SafeTensors"
    check_output(path, "adapter")
    save_adapter(path, lora, CARD)
    check_output(path, "adapter")
    assert load_adapter(path).card == CARD


def test_a_full_disk_leaves_the_old_adapter(lora, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_adapter(path, lora, CARD)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DDMError, match="No space left"):
        save_adapter(path, lora, replace(CARD, recommended_alpha=0.1))
    assert path.read_bytes() == before
    assert [file.name for file in Path(tmp_path).iterdir()] == ["a.safetensors"]
