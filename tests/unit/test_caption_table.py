"""Every sentence of a run is encoded once, and every image finds its own."""

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.groups.diffusion_classifier import ATTRIBUTES, say
from comfyui_ddm.debias.groups.groups import Groups, concepts
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.groups.weighting import Weighting
from comfyui_ddm.training.data import caption_table
from comfyui_ddm.training.data.caption_table import CaptionTable, shuffled
from comfyui_ddm.training.data.group_images import Grouping
from comfyui_ddm.training.models.family import named_family
from comfyui_ddm.training.models.text import Text

CAPTIONS = ["a doctor", "a judge", "a doctor", "", "a doctor", "an old person"]


class Speller:
    """Encodes a sentence as its number, and remembers what it was asked."""

    device, text_encoders, family = torch.device("cpu"), {}, named_family("sd1")

    def __init__(self):
        self.asked = []

    def chunks(self, prompts):
        return 1

    def encode_text(self, prompts, chunks=1):
        self.asked.append(list(prompts))
        return Text(torch.arange(len(prompts), dtype=torch.float16).view(-1, 1, 1))


def grouping(*words, count=len(CAPTIONS)):
    parts = []
    for number, pair in enumerate(words or [()]):
        membership = np.eye(2)[np.arange(count) // (number + 1) % 2]
        parts.append(Groups(pair or ("one", "two"), membership, "test", pair))
    targets = [Target.uniform(part.names) for part in parts]
    _, concept = concepts(CAPTIONS if count == len(CAPTIONS) else [""] * count)
    return Grouping("test", parts, targets, Weighting.of_attributes(parts, targets, concept))


@pytest.fixture
def table():
    speller = Speller()
    made = CaptionTable.build(speller, CAPTIONS, grouping(("man", "woman"), ("young", "old")))
    return made, speller


def test_every_sentence_is_encoded_once(table):
    made, speller = table
    sentences = speller.asked[0]
    assert len(speller.asked) == 1 and len(set(sentences)) == len(sentences) == len(made.table)
    assert made.table[np.arange(2)].tokens.dtype == torch.float32


def test_an_image_has_its_own_caption(table):
    made, speller = table
    assert [speller.asked[0][row] for (row,) in made.neutral] == CAPTIONS
    assert speller.asked[0][made.empty] == ""


def test_the_words_of_every_cell_are_said(table):
    made, speller = table
    said = [speller.asked[0][row] for row in made.said_by_group[1]]
    assert said == ["a young man judge", "an old man judge", "a young woman judge", "an old woman judge"]
    assert made.said_by_group.shape == (len(CAPTIONS), 4)
    assert [speller.asked[0][row] for row in made.said_by_group[3]][1] == say(say("", "man"), "old")


def test_the_words_of_the_groups_and_of_gender_are_said_of_every_caption(table):
    made, speller = table
    words = {"man", "woman", "young", "old", *ATTRIBUTES["gender"]}
    for text, rows in zip(CAPTIONS, made.said, strict=True):
        assert {speller.asked[0][row] for row in rows} == {say(text, word) for word in words}


def test_groups_without_words_are_said_by_none():
    made = CaptionTable.build(Speller(), CAPTIONS, grouping())
    assert made.said_by_group is None and made.said.shape == (len(CAPTIONS), 2)


TAGS = "sks, a doctor, smiling, red coat, window"


def test_shuffled_captions_keep_their_beginning_and_all_their_parts():
    made, speller = CaptionTable.build(speller := Speller(), [TAGS, "a judge"] * 3, grouping(), keep=2), speller
    said = [speller.asked[0][row] for row in made.neutral[0]]
    assert said[0] == TAGS and len(set(said)) == 6  # the orders of three parts
    assert all(text.startswith("sks, a doctor, ") and sorted(text) == sorted(TAGS) for text in said)
    assert {speller.asked[0][row] for row in made.neutral[1]} == {"a judge"}
    assert shuffled(TAGS, 2, 9) == shuffled(TAGS, 2, 9) and set(shuffled(TAGS, 9, 9)) == {TAGS}


def test_few_orders_of_many_captions_are_encoded(monkeypatch):
    captions = [f"{TAGS}, {number}" for number in range(20)]
    monkeypatch.setattr(caption_table, "SENTENCES", 10)
    made = CaptionTable.build(Speller(), captions, grouping(count=20), keep=0)
    assert made.neutral.shape == (20, caption_table.ORDERS[0])
    assert CaptionTable.build(Speller(), captions, grouping(count=20)).neutral.shape == (20, 1)


def test_many_captions_share_the_sentences_that_there_is_room_for(monkeypatch):
    monkeypatch.setattr(caption_table, "SENTENCES", 9)
    made = CaptionTable.build(Speller(), CAPTIONS, grouping(("man", "woman"), ("young", "old")))
    assert made.said.shape == (len(CAPTIONS), 2)
    monkeypatch.setattr(caption_table, "SENTENCES", 1)
    assert CaptionTable.build(Speller(), CAPTIONS, grouping()).said.shape == (len(CAPTIONS), 1)
