"""CLIP and SigLIP folders: images and texts in one space, for probes from words."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.models.image_text import ImageText

TOKENIZER = Path(__file__).parents[2] / "examples" / "tiny_people" / "tokenizer"
SIZES = dict(hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request, tmp_path_factory):
    """A small model with random weights, and the embedded model's tokenizer."""
    import transformers

    names = {"clip": "CLIP", "siglip": "Siglip"}
    kind = getattr(transformers, f"{names[request.param]}Model")
    # With this number of its end, CLIP reads at the highest token of a text.
    text = SIZES | dict(vocab_size=800, max_position_embeddings=16, bos_token_id=0, eos_token_id=2)
    vision = SIZES | dict(image_size=32, patch_size=8)
    config = kind.config_class(text_config=text, vision_config=vision)
    if request.param == "clip":
        config.projection_dim = 24
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp(request.param) / "model"
    kind(config).save_pretrained(place)
    shutil.copytree(TOKENIZER, place, dirs_exist_ok=True)
    return place


def test_images_and_texts_are_embedded_in_one_space(folder):
    both = ImageText(folder)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), dtype=np.uint8)
    seen, said = both(images), both.embed_texts(["a man", "a woman", "a man"])
    assert seen.shape == said.shape
    for embedded in (seen, said):
        assert np.allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)
    assert np.allclose(said[0], said[2], atol=1e-6) and not np.allclose(said[0], said[1], atol=1e-4)
    assert both.size == 32 and both.scale > 0 and folder.name in both.identity


def test_a_folder_that_is_not_complete_is_a_sentence(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DDMError, match="cannot be opened as an image–text model"):
        ImageText(broken)
    (broken / "config.json").unlink()
    with pytest.raises(DDMError, match="it has no config"):
        ImageText(broken)
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("vocab*", "tokenizer*", "merges*"))
    with pytest.raises(DDMError, match=r"The tokenizer in .* cannot be opened"):
        ImageText(bare)
