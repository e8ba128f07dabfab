"""The tokenizer of a checkpoint: where it is looked for, and what is said when there is none."""

import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.models import tokenizer
from comfyui_ddm.training.models.tokenizer import find_tokenizer, open_tokenizer

from .checkpoints import SPECIAL, make_tokenizer


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that has no tokenizer anywhere."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(tokenizer, "ROOT", tmp_path / "somewhere" / "pack")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    return tmp_path


def test_without_one_a_sentence_says_what_to_do(machine):
    with pytest.raises(DDMError, match=r"needs CLIP's tokenizer.*nothing is downloaded"):
        find_tokenizer(machine / "model.safetensors")


def test_the_comfyui_that_is_named_has_it(machine, monkeypatch):
    own = make_tokenizer(machine / "host" / "comfy" / "sd1_tokenizer")
    monkeypatch.setenv("COMFYUI_PATH", str(machine / "host"))
    assert find_tokenizer(machine / "model.safetensors") == own


@pytest.mark.parametrize("inside", ["checkpoint", "pack"])
def test_the_comfyui_around_the_checkpoint_or_the_pack_has_it(machine, monkeypatch, inside):
    own = make_tokenizer(machine / "host" / "comfy" / "sd1_tokenizer")
    path = machine / "model.safetensors"
    if inside == "pack":
        monkeypatch.setattr(tokenizer, "ROOT", machine / "host" / "custom_nodes" / "pack")
    else:
        path = machine / "host" / "models" / "checkpoints" / "model.safetensors"
    assert find_tokenizer(path) == own


def test_the_cache_of_transformers_is_looked_at_but_nothing_is_fetched(machine, monkeypatch):
    own = make_tokenizer(machine / "cache" / "tokenizer")
    found = {("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/vocab.json"): str(own / "vocab.json")}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *asked: found.get(asked))
    assert find_tokenizer(machine / "model.safetensors") == own


def test_a_given_folder_comes_first_and_must_hold_it(machine, monkeypatch):
    make_tokenizer(machine / "host" / "comfy" / "sd1_tokenizer")
    monkeypatch.setenv("COMFYUI_PATH", str(machine / "host"))
    own = make_tokenizer(machine / "pipeline" / "tokenizer")
    for given in (own, own.parent):
        assert find_tokenizer(machine / "model.safetensors", given) == own
    with pytest.raises(DDMError, match=r"holds no tokenizer.*vocab.json and merges.txt"):
        find_tokenizer(machine / "model.safetensors", machine)


@pytest.mark.parametrize(("pad", "number"), [("<|endoftext|>", SPECIAL["eos"]), ("!", 0)])
def test_prompts_are_padded_with_the_familys_token(tmp_path, pad, number):
    opened = open_tokenizer(make_tokenizer(tmp_path / "tokenizer"), pad)
    ids = opened(["ab"], padding="max_length", max_length=77, truncation=True).input_ids[0]
    assert len(ids) == 77 and ids[0] == SPECIAL["bos"] and ids[3] == SPECIAL["eos"]
    assert set(ids[4:]) == {number}


def test_a_broken_one_is_a_sentence(tmp_path):
    folder = make_tokenizer(tmp_path / "tokenizer")
    (folder / "vocab.json").write_text("{")
    with pytest.raises(DDMError, match="cannot be opened"):
        open_tokenizer(folder, "!")
