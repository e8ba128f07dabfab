"""Soft tokens: said before a prompt, alike in our sampler and in diffusers."""

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import AdapterCard
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import load_tensors
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.model import load_model
from comfyui_ddm.training.models.soft_tokens import SoftTokens
from comfyui_ddm.training.sampling.generate import generate


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(tiny_base)


@pytest.fixture(scope="module")
def file(base, tmp_path_factory):
    path = tmp_path_factory.mktemp("embedding") / "fair.safetensors"
    SoftTokens.from_vocabulary(base, 3, seed=4).save(path, AdapterCard(objective="alignment", base_hash=base.hash))
    return path


def test_they_start_as_words_of_the_vocabulary(base):
    table = base.text_encoder.get_input_embeddings().weight
    rows = SoftTokens.from_vocabulary(base, 3, seed=4).rows["text_encoder"]
    found = [int((table == row).all(1).nonzero()) for row in rows]
    assert len(set(found)) == 3 and max(found) < len(table) - 2


def test_tokens_that_are_words_are_read_as_these_words(base):
    words = base.tokenizer.convert_tokens_to_ids(["a</w>", "b</w>"])
    soft = SoftTokens({"text_encoder": base.text_encoder.get_input_embeddings().weight[words].detach()})
    torch.testing.assert_close(base.encode_text(["cook"], soft).tokens, base.encode_text(["a b cook"]).tokens)


def test_a_long_prompt_is_cut_so_that_they_fit(base, file):
    soft, _ = SoftTokens.load(file)
    assert base.encode_text(["x " * 100, "a"], soft).tokens.shape == (2, 77, 32)


def test_the_tokens_and_the_card_are_in_the_file(base, file):
    tensors, metadata = load_tensors(file)
    assert {name: list(row.shape) for name, row in tensors.items()} == {"emb_params": [3, 32]}
    assert metadata["ddm.objective"] == '"alignment"'
    soft, card = SoftTokens.load(file)
    assert torch.equal(soft.rows["text_encoder"], tensors["emb_params"])
    assert card.base_hash == base.hash


def test_they_act_as_in_diffusers(base, file, tiny_base):
    from diffusers import StableDiffusionPipeline

    other = load_base(tiny_base)
    parts = {"vae": other.vae, "text_encoder": other.text_encoder, "tokenizer": other.tokenizer, "unet": other.denoiser}
    off = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = StableDiffusionPipeline(**parts, scheduler=other.scheduler, **off)
    pipe.load_textual_inversion(str(file.parent), weight_name=file.name, token="<fair>", local_files_only=True)
    theirs, _ = pipe.encode_prompt("<fair> cook", torch.device("cpu"), 1, do_classifier_free_guidance=False)
    soft, _ = SoftTokens.load(file)
    torch.testing.assert_close(base.encode_text(["cook"], soft).tokens, theirs, atol=1e-5, rtol=1e-5)


def test_an_embedding_knows_no_strength_between(file, tiny_base):
    model = load_model(tiny_base, file)
    assert len(generate(model.base, ["a"] * 2, [0, 1], alpha=[0.0, 1.0], steps=1)) == 2
    with pytest.raises(DDMError, match="α = 0 or 1"):
        generate(model.base, ["a"], [0], alpha=0.5, steps=1)


def test_an_embedding_of_another_base_is_refused(file, tiny_base, tmp_path):
    SoftTokens({"text_encoder": torch.zeros(2, 768)}).save(tmp_path / "big.safetensors", AdapterCard())
    with pytest.raises(DDMError, match="768 numbers per token"):
        load_model(tiny_base, tmp_path / "big.safetensors")


def test_sdxls_two_encoders_have_two_tensors(tmp_path):
    rows = {"text_encoder": torch.rand(2, 8), "text_encoder_2": torch.rand(2, 12)}
    SoftTokens(rows).save(tmp_path / "xl.safetensors", AdapterCard())
    tensors, _ = load_tensors(tmp_path / "xl.safetensors")
    assert {name: list(row.shape) for name, row in tensors.items()} == {"clip_l": [2, 8], "clip_g": [2, 12]}
    soft, _ = SoftTokens.load(tmp_path / "xl.safetensors")
    assert all(torch.equal(soft.rows[name], rows[name]) for name in rows)
