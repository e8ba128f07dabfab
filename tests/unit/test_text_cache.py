"""Sentences are encoded once, kept on disk by content, and read back as they were."""

import pytest
import torch
from comfyui_ddm.training.data import cache
from comfyui_ddm.training.data.text_cache import encode_texts
from comfyui_ddm.training.models.base import Base
from comfyui_ddm.training.models.load_base import load_base

from .checkpoints import make_folder, make_models, tiny_configuration

SENTENCES = ["a doctor", "", "a judge"]
EVERY = torch.arange(3)


@pytest.fixture
def encoded(monkeypatch):
    """What the text encoders were given."""
    asked, real = [], Base.encode_text
    monkeypatch.setattr(
        Base, "encode_text", lambda self, prompts, **how: asked.append(list(prompts)) or real(self, prompts, **how)
    )
    return asked


def test_a_sentence_is_encoded_once_for_all_runs(tiny_base, tmp_path, encoded):
    base = load_base(tiny_base)
    plain, first = encode_texts(base, SENTENCES), encode_texts(base, SENTENCES, tmp_path)
    assert torch.equal(plain[EVERY].tokens, first[EVERY].tokens)
    del encoded[:]
    again = encode_texts(load_base(tiny_base), ["a pilot", *SENTENCES], tmp_path)
    assert encoded == [["a pilot"]] and torch.equal(again[EVERY + 1].tokens, first[EVERY].tokens)


def test_another_text_encoder_shares_nothing(tiny_base, tmp_path, encoded):
    encode_texts(load_base(tiny_base), SENTENCES, tmp_path)
    other = load_base(tiny_base)
    with torch.no_grad():
        next(other.text_encoder.parameters()).add_(0.1)
    del encoded[:]
    encode_texts(other, SENTENCES, tmp_path)
    assert encoded == [SENTENCES]


def test_what_is_too_large_for_the_memory_is_read_from_the_disk(tiny_base, tmp_path, monkeypatch):
    base = load_base(tiny_base)
    held = encode_texts(base, SENTENCES, tmp_path)
    monkeypatch.setattr(cache, "MEMORY", 1000)
    texts = encode_texts(base, SENTENCES, tmp_path)
    assert all(isinstance(row, cache.Place) for row in texts.rows)
    assert torch.equal(texts[EVERY].tokens, held[EVERY].tokens)


def test_sdxl_keeps_both_embeddings(tmp_path):
    config = tiny_configuration("sdxl")
    base = load_base(make_folder(tmp_path / "sdxl", config, make_models(config)))
    texts = encode_texts(base, SENTENCES, tmp_path / "cache")
    wanted = base.encode_text(SENTENCES)
    assert torch.equal(texts[EVERY].tokens, wanted.tokens) and torch.equal(texts[EVERY].pooled, wanted.pooled)
