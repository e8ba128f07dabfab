"""CLIP's text encoder from a folder, whose words probes are made from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_ddm import install
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.probes.words_probe import check_pair
from comfyui_ddm.training.models.clip import ClipImages, ClipTexts

TOKENIZER = Path(install.__file__).parent / "examples" / "tiny_people" / "tokenizer"
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TOWER |= {"projection_dim": 8}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A whole CLIP with random weights: its words and images have nothing to do with each other."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    words = json.loads((TOKENIZER / "vocab.json").read_text("utf-8"))
    ends = {"bos_token_id": words["<|startoftext|>"], "eos_token_id": words["<|endoftext|>"]}
    text, vision = TOWER | ends | {"vocab_size": len(words)}, TOWER | {"image_size": 32, "patch_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(TOKENIZER / name, folder)
    return folder


def test_a_text_has_the_same_embedding_alone_and_beside_longer_ones(clip):
    encode = ClipTexts(clip)
    made = encode(["a man", "a picture of a woman who is a doctor"])
    assert made.shape == (2, 8) and made.dtype == np.float32
    assert np.allclose(encode(["a man"])[0], made[0], atol=1e-5)
    assert not np.allclose(made[0], made[1], atol=1e-2)


def test_words_and_images_that_know_nothing_of_each_other_make_no_probe(clip):
    with pytest.raises(DDMError, match="does not belong to the image encoder"):
        check_pair(ClipTexts(clip), ClipImages(clip))


def test_a_folder_without_text_encoder_or_tokenizer_is_a_sentence(clip, tmp_path):
    with pytest.raises(DDMError, match="no CLIP model"):
        ClipTexts(tmp_path)
    bare = shutil.copytree(clip, tmp_path / "bare")
    (bare / "vocab.json").unlink()
    with pytest.raises(DDMError, match="tokenizer"):
        ClipTexts(bare)
