"""Probes from words, with an image–text model that knows colours and nothing else."""

import numpy as np
import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.evaluation.accumulator import Accumulator, ImageMeta
from comfyui_ddm.debias.evaluation.compare import Evaluation
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.probes.words_probe import COLOURS, check_pair, parse_classes, probe_from_words
from PIL import Image

WORDS = {**COLOURS, "man": COLOURS["blue"], "woman": COLOURS["red"], "nobody": COLOURS["green"]}
CLASSES = {"man": ["a man"], "woman": ["a woman", "one woman"]}


def direction(colours):
    colours = np.asarray(colours, dtype=np.float64) / 255 - 0.5
    found = np.concatenate([colours, np.full((len(colours), 1), 0.2)], axis=1)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def encode(texts):
    return 7 * direction([next(rgb for name, rgb in WORDS.items() if name in text.split()) for text in texts])


class Eye:
    identity = "CLIP of colours"

    def __call__(self, images):
        return direction(images.mean((1, 2)))


def square(colour):
    return np.full((8, 8, 3), colour, np.uint8)


def made():
    return probe_from_words(CLASSES, "gender", encode, Eye(), ["nobody"])


def test_images_are_told_apart_by_what_the_classes_are_called():
    seen = made().predict(np.stack([square(COLOURS["blue"]), square(COLOURS["red"])]))
    assert seen.argmax(1).tolist() == [0, 1]
    assert seen.max(1).min() > 0.9


def test_an_image_of_neither_is_unclear_and_its_probabilities_say_so():
    seen = made().predict(np.stack([square(COLOURS["green"])]))
    assert seen.sum() < 0.1


def test_a_report_says_that_accuracy_is_not_known_and_does_not_count_what_is_unclear():
    probe = made()
    kept = Accumulator([probe], [Target.uniform(probe.names)])
    rng = np.random.default_rng(0)
    for i, name in enumerate(["blue", "red", "green", "blue"]):
        noisy = np.clip(rng.normal(COLOURS[name], 9, (224, 224, 3)), 0, 255).astype(np.uint8)
        kept.add([probe], [Image.fromarray(noisy)], [ImageMeta("a prompt", seed=i)])
    report = Evaluation.of(kept.records()).report
    overall = report.attributes[0].overall[0]
    assert (overall.images, overall.undetermined) == (4, 1)
    assert overall.shares[0].value == pytest.approx(2 / 3)
    assert any("right is not known" in line for line in report.remarks)


def test_halves_of_two_models_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(DDMError, match="does not belong to the image encoder"):
        check_pair(lambda texts: rng.normal(size=(len(texts), 4)), Eye())
    with pytest.raises(DDMError, match="gives 4 features and the text encoder 9"):
        check_pair(lambda texts: rng.normal(size=(len(texts), 9)), Eye())


def test_classes_are_read_from_lines():
    assert parse_classes("man: a man, a male person\n\nwoman") == {
        "man": ["a man", "a male person"],
        "woman": ["woman"],
    }


@pytest.mark.parametrize("text", ["", "man", "man\nman", "man:\nwoman", ": x\nman", "man: a,,b\nwoman"])
def test_lines_that_are_no_classes_are_a_sentence(text):
    with pytest.raises(DDMError, match=r"class"):
        parse_classes(text)
