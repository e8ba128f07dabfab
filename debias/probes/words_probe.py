"""Probes from words: an image–text model compares an image with what the classes are called.

Zero-shot classification as in CLIP (Radford et al., 2021, arXiv 2103.00020, §3.1): an embedding for each class, the
mean over its phrases and over prompt templates, and a softmax over cosines. How often it is right is not known until
somebody has looked.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from ..core.error import DDMError
from .probe import Extractor, Probe, identity_of

TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "a close-up photo of {}", "a drawing of {}")
# CLIP's own logit scale: what cosines are multiplied by.
SCALE = 100.0
# Squares of these colours and their names, by which one can see whether images and texts share a space.
COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 160, 40),
    "blue": (20, 40, 220),
    "yellow": (250, 230, 20),
    "black": (5, 5, 5),
    "white": (250, 250, 250),
}
FEWEST_COLOURS = 4

TextEncoder = Callable[[Sequence[str]], np.ndarray]  # N texts → [N, D]


class WordsProbe(Probe):
    """A probe whose last row is what is none of the classes: an image like it counts as undetermined."""

    def predict_features(self, features: np.ndarray) -> np.ndarray:
        """Probabilities float64 [N, K]; a row sums to 1 less the probability that it is none of the classes."""
        return super().predict_features(features)[:, : len(self.names)]


def parse_classes(text: str) -> dict[str, list[str]]:
    """Classes as they are written, one in a line: `man: a man, a male person`; a name alone is its own phrase.

    Raises:
        DDMError: there are fewer than two classes, one comes twice, or one has no phrase.
    """
    classes: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, phrases = line.partition(":")
        name, found = name.strip(), [phrase.strip() for phrase in (phrases if colon else name).split(",")]
        if not name or not all(found) or name in classes:
            raise DDMError(f"{line!r} is no class. Write each once, with phrases for it: 'man: a man, a male person'.")
        classes[name] = found
    if len(classes) < 2:
        raise DDMError("There are fewer than two classes. Write one in a line: 'man: a man', 'woman: a woman'.")
    return classes


def parse_phrases(text: str) -> list[str]:
    """Phrases as they are written, in lines or with commas between them."""
    return [phrase.strip() for phrase in text.replace("\n", ",").split(",") if phrase.strip()]


def probe_from_words(
    classes: Mapping[str, Sequence[str]],
    attribute: str,
    encode: TextEncoder,
    extractor: Extractor,
    unclear: Sequence[str],
    scale: float = SCALE,
) -> WordsProbe:
    """A probe of the classes, of unknown accuracy.

    Args:
        classes: phrases by class.
        attribute: what they are classes of.
        encode: embeddings of texts, in the space of the images'.
        extractor: embeddings of images, of length 1.
        unclear: phrases for images that show none of the classes.
        scale: what cosines are multiplied by.

    Raises:
        DDMError: texts and images are not of one model.
    """
    check_pair(encode, extractor)
    names = sorted(classes)
    rows = np.stack([_embedding(encode, phrases) for phrases in (*(classes[name] for name in names), unclear)])
    head = nn.Linear(rows.shape[1], len(rows))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(rows))
        head.bias.zero_()
    probe = WordsProbe(names, attribute, head, extractor=extractor, identity=identity_of(extractor))
    probe.temperature = 1 / scale
    return probe


def check_pair(encode: TextEncoder, extractor: Extractor) -> None:
    """Refuse texts and images whose embeddings do not belong together, by squares of plain colours.

    Raises:
        DDMError: they have different widths, or colours are not recognised by their names.
    """
    texts = np.stack([_embedding(encode, [f"a {name} square", f"the colour {name}"]) for name in COLOURS])
    images = extractor(np.stack([np.full((224, 224, 3), colour, np.uint8) for colour in COLOURS.values()]))
    if images.shape[1] != texts.shape[1]:
        raise DDMError(
            f"The image encoder gives {images.shape[1]} features and the text encoder {texts.shape[1]}: they are not "
            "of one model. Connect the two halves of one CLIP, such as CLIP-G of SDXL and a CLIP-G vision model."
        )
    cosines = np.asarray(images, dtype=np.float64) @ texts.T
    cosines -= cosines.mean(0) + cosines.mean(1, keepdims=True)
    right = int((cosines.argmax(1) == np.arange(len(COLOURS))).sum())
    if right < FEWEST_COLOURS:
        raise DDMError(
            f"The text encoder does not belong to the image encoder: by its words, {right} of {len(COLOURS)} plain "
            "colours are recognised. Connect the two halves of one CLIP. (The text encoder of SD 1.5 lacks the "
            "projection that this takes; that of SDXL has it.)"
        )


def _embedding(encode: TextEncoder, phrases: Sequence[str]) -> np.ndarray:
    """The mean direction [D] of phrases in all templates."""
    found = np.asarray(encode([form.format(phrase) for phrase in phrases for form in TEMPLATES]), dtype=np.float64)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    mean = found.mean(0)
    return mean / np.linalg.norm(mean)
