"""A LoRA that changes the text encoders as well: learnt at every row's strength, saved in one file, used at one α."""

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import load_adapter
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.commands.config import TrainConfig
from comfyui_ddm.training.data import text_cache
from comfyui_ddm.training.data.dataset import folder_set
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.data.text_cache import encode_texts, encoders_hash
from comfyui_ddm.training.models.base import TEXTS, Base
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import lora_parameters, set_alpha
from comfyui_ddm.training.models.model import load_model
from comfyui_ddm.training.objectives.ddm_run import Run
from comfyui_ddm.training.sampling.generate import generate

from .runs import settings

PROMPTS, SEEDS = ["a doctor", "a judge", "a doctor"], [1, 2, 3]


@pytest.fixture
def make(prepared):
    def run(name="fair", **options):
        options["changes"] = {"text_encoder": True, "learning_rate": 0.05, "keep": 0.5, **options.get("changes", {})}
        return prepared(name, **options)

    return run


def learnt(run, name="debias"):
    """How far the up matrices of a LoRA have come from 0, on the U-Net and on the text encoder."""
    return [
        sum(float(up.abs().sum()) for up in lora_parameters(model, name)[1::2])
        for model in run.objective.parts.values()
    ]


def test_both_halves_are_in_one_file_which_gives_the_images_of_the_trained_model(make, tiny_base, tmp_path):
    run = make(style=tmp_path / "style.safetensors")
    assert run.train()
    for path in (run.out, run.style):
        layers = load_adapter(path).modules
        assert {name.split("_")[1] for name in layers} == {"unet", "te"}
        assert all(any(lora.up.any() for name, lora in layers.items() if half in name) for half in ("_unet_", "_te_"))
    assert load_adapter(run.out).card.training["text_encoder"]
    for alpha in (1.0, 0.5):
        made = generate(run.base, PROMPTS, SEEDS, alpha=alpha, steps=2)
        loaded = generate(load_model(tiny_base, run.out, run.style, "cpu").base, PROMPTS, SEEDS, alpha=alpha, steps=2)
        # The LoRAs are put on in another order, so their sums are rounded otherwise.
        assert np.abs(made.astype(int) - loaded).max() <= 1
    without = load_model(tiny_base, run.out, device="cpu").base
    assert np.array_equal(
        generate(without, PROMPTS, SEEDS, alpha=0.0, steps=2), generate(load_base(tiny_base), PROMPTS, SEEDS, steps=2)
    )


def test_without_the_option_no_text_encoder_is_touched(make):
    run = make(changes={"text_encoder": False})
    assert list(run.objective.parts) == [""] and not hasattr(run.base.text_encoder, "lora_layers")


def test_every_row_is_read_at_its_own_strength(make):
    run = make()
    run.train()
    objective, rows = run.objective, np.array([1, 1, 2, 0])
    strengths = [0.0, 0.4, 0.8, 1.5]
    objective._set_alpha(np.array(strengths, np.float32))
    read = objective._text(rows).tokens
    assert torch.equal(read[0], objective.captions.table[rows].tokens[0])
    for row, alpha in enumerate(strengths):
        objective._set_alpha(alpha)
        torch.testing.assert_close(read[row], objective._text(rows).tokens[row], atol=1e-5, rtol=1e-5)


def test_so_many_rows_that_they_would_be_encoded_in_parts_keep_their_strengths(make):
    base = make().base
    set_alpha(base.text_encoder, "debias", np.linspace(0, 1, TEXTS + 1, dtype=np.float32))
    assert len(base.encode_text(["a"] * (TEXTS + 1), gradient=True)) == TEXTS + 1


def test_what_the_base_teaches_it_says_with_its_own_words_or_with_those_of_the_style(make, tmp_path, monkeypatch):
    def taught(run):
        """Texts under which a step asks the base, and those that the table has of them."""
        asked, predict = [], Base.predict

        def watched(self, noisy, t, text):
            if not torch.is_grad_enabled():
                asked.append(text.tokens)
            return predict(self, noisy, t, text)

        with monkeypatch.context() as patch:
            patch.setattr(Base, "predict", watched)
            batch = run.objective.sampler.draw(run.training.step)
            run.training.advance()
        return asked[0], run.objective.captions.table[batch.anchor[batch.anchor >= 0]].tokens

    assert torch.equal(*taught(make()))
    run = make(style=tmp_path / "style.safetensors", changes={"style_share": 0.5})
    run.training.advance(), run.training.advance()
    assert learnt(run, "style")[1] > 0 and learnt(run)[1] == 0
    said, kept = taught(run)
    assert said.shape == kept.shape and not torch.allclose(said, kept, atol=1e-4)


def test_the_style_is_learnt_first_on_both_and_then_left_as_it_is(make, tmp_path):
    run = make(style=tmp_path / "style.safetensors", changes={"style_share": 0.5})
    seen = []
    for _ in range(4):
        run.training.advance()
        seen.append(learnt(run, "style") + learnt(run))
    assert all(seen[1][:2]) and not any(seen[1][2:])
    assert seen[3][:2] == seen[1][:2] and all(seen[3][2:])


def test_calibration_scales_both_halves_and_leaves_the_cache_as_the_base_made_it(make, tiny_base, folder, tmp_path):
    base, cache = load_base(tiny_base), tmp_path / "cache"
    images = folder_set(base, read_folder(folder), cache=cache)
    changes = settings(text_encoder=True, calibrate=4, learning_rate=0.05)
    run = Run(base, images, tmp_path / "fair.safetensors", groups="discovered", settings=changes)
    before, plain = sorted(cache.iterdir()), encoders_hash(base)
    assert run.train()
    assert sorted(cache.iterdir()) == before  # features and texts of the set were found there
    adapter = load_adapter(run.out)
    scale = adapter.card.training["calibration"]["scale"]
    strengths = {lora.alpha for lora in adapter.modules.values()}
    assert len(strengths) == 1 and strengths.pop() == pytest.approx(2 * scale / run.objective.alpha_range_scale)
    fresh = load_base(tiny_base)
    assert encoders_hash(base) == plain == encoders_hash(fresh)
    said = torch.arange(1)
    assert torch.equal(encode_texts(base, ["a doctor"])[said].tokens, encode_texts(fresh, ["a doctor"])[said].tokens)


def test_the_weights_of_a_text_encoder_are_hashed_once(tiny_base, monkeypatch):
    base, read = load_base(tiny_base), []
    plain = text_cache.weights_hash
    monkeypatch.setattr(text_cache, "weights_hash", lambda model, *facts: read.append(model) or plain(model, *facts))
    first = encoders_hash(base)
    assert encoders_hash(base) == first and encoders_hash(base, chunks=2) != first
    assert read == list(base.text_encoders.values())


def test_the_published_objective_knows_no_text_encoder(tmp_path):
    given = {"out": tmp_path / "a.safetensors", "folder": tmp_path, "groups": "labels:a", "text_encoder": True}
    with pytest.raises(DDMError, match="Leave the text encoders as they are"):
        TrainConfig(objective="ddm-paper", **given)
