"""The page of an adapter says what its card says, and a page of somebody else stays."""

from dataclasses import replace

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, Lora, save_adapter, update_card
from comfyui_ddm.training.evaluation.adapter_page import page_path, render, write_page

FOUND = [{"source": "labels:gender", "shares": {"man": 0.75, "woman": 0.25}}]
CARD = AdapterCard(
    groups="labels:gender",
    target={"man": 0.5, "woman": 0.5},
    recommended_alpha=0.8,
    base_hash="ab" * 32,
    concepts=["a doctor", "a judge | <b>"],
    predicted=[{"alpha": a, "shares": [0.75, 0.25], "fd": 0.1, "ess": 0.9} for a in (0.0, 0.05, 0.25, 1.0)],
    training={"steps": 400, "images": 8, "fingerprint": "cd" * 32, "found": FOUND, "calibration": {"scale": 1.3}},
    title="fair",
)
MEASURED = {
    "attribute": "gender",
    "classes": ["man", "woman"],
    "target": [0.5, 0.5],
    "probe_accuracy": 0.99,
    "prompts": 1,
    "steps": 20,
    "cfg": 3.0,
    "points": [{"alpha": 1.0, "images": 60, "shares": [0.55, 0.45], "fd": 0.07, "fd_high": 0.2, "floor_high": 0.2}],
    "recommended_alpha": 1.0,
}


def test_groups_promises_and_settings_are_told():
    page = render(CARD, "fair.safetensors")
    assert page.startswith("---\nlibrary_name: diffusers\n")
    assert "| man | 75% | 50% |\n| woman | 25% | 50% |" in page
    assert "| 0.25 | 75%, 25% | 0.10 | 90% of them |" in page and "| 0.05 |" not in page
    assert "<lora:fair:0.8>" in page and "| steps | 400 |" in page and "| scale found by calibration | 1.30 |" in page
    assert "Nothing yet." in page and "to be filled in" in page


def test_words_of_a_user_are_no_markup():
    page = render(replace(CARD, title="<script>`x`\nnew line"), "fair.safetensors")
    assert "# &lt;script>'x' new line" in page and "a judge &#124; &lt;b>" in page


def test_what_was_measured_is_told_with_its_uncertainty():
    page = render(replace(CARD, measured=MEASURED), "fair.safetensors")
    assert "gender as a probe sees it, which is right in 99% of cases." in page
    assert "| 1 | 55% | 45% | 0.07 (0.20) | 60 |" in page and "Nothing yet" not in page


@pytest.mark.parametrize("card", [AdapterCard(), AdapterCard(objective="style", description="A look.")])
def test_a_card_that_says_little_has_a_page_too(card):
    page = render(card, "little.safetensors")
    assert "unknown" in page and ("A look." in page) == (card.objective == "style")


@pytest.fixture
def adapter(tmp_path):
    path = tmp_path / "fair.safetensors"
    save_adapter(path, {"conv_in": Lora(torch.ones(2, 3), torch.ones(4, 2), 2.0)}, CARD)
    return path


def test_a_page_is_written_anew_and_one_of_somebody_else_is_not(adapter):
    assert write_page(adapter) and page_path(adapter).name == "fair.md"
    update_card(adapter, replace(CARD, measured=MEASURED))
    assert write_page(adapter) and "as a probe sees it" in page_path(adapter).read_text(encoding="utf-8")
    page_path(adapter).write_text("mine", encoding="utf-8")
    assert not write_page(adapter) and page_path(adapter).read_text(encoding="utf-8") == "mine"


def test_a_lora_of_another_trainer_has_no_page(tmp_path):
    path = tmp_path / "other.safetensors"
    save_adapter(path, {"conv_in": Lora(torch.ones(2, 3), torch.ones(4, 2), 2.0)})
    assert not write_page(path) and not page_path(path).exists()
