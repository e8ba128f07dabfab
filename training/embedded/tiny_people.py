"""The world of the embedded model: a draw of the people emoji that leans both ways, and what is said of it."""

import itertools
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...debias.groups.diffusion_classifier import article

if TYPE_CHECKING:
    from ..data.image_folder import ImageFolder

# The share of men and of darker tones in the roles, from the least to the largest; guidance sharpens what it says.
LEAST, MOST = 0.1, 0.9
# Seeds of the shuffles that deal the shares of men and of darker tones.
GENDER_SEED, TONE_SEED = 3, 20
# The shares of every role in a world that leans one way.
GENDER_SHARES = {"man": 0.80, "woman": 0.20}
TONE_SHARES = {"default": 0.25, "light": 0.30, "medium-light": 0.18, "medium": 0.12, "medium-dark": 0.09, "dark": 0.06}
LIGHT, DARK = ("default", "light", "medium-light"), ("medium", "medium-dark", "dark")
GENDER_WORDS = {"man": ("man", "male"), "woman": ("woman", "female")}
TONE_WORDS = {"default": "yellow skin"} | {tone: f"{tone} skin" for tone in (*LIGHT[1:], *DARK)}
FRAMES = ("{}", "a picture of {}", "a portrait of {}", "an emoji of {}")


def caption(role: str, gender: str = "", tone: str = "") -> str:
    """Say an image in words, for instance "a dark skin woman firefighter" or "an astronaut".

    Args:
        role: one of the set's 36 roles, as in `metadata.jsonl`.
        gender: a word to say ("man", "female"), or empty to leave it out.
        tone: a key of `TONE_WORDS`, or empty to leave it out.
    """
    phrase = f"{gender} {role}".strip()
    phrase = f"{TONE_WORDS[tone]} {phrase}" if tone else phrase
    return f"{article(phrase)} {phrase}"


def leaning(roles: Collection[str], seed: int) -> dict[str, float]:
    """The share of a side in each role: even steps from `LEAST` to `MOST`, dealt by a shuffle.

    So half of the roles lean one way and half the other, and who leans where is nobody's stereotype.
    """
    shuffled = random.Random(seed).sample(sorted(roles), len(roles))
    return dict(zip(shuffled, np.linspace(LEAST, MOST, len(roles)).tolist(), strict=True))


@dataclass(frozen=True)
class Draw:
    """The biased draw: each role has its own share of men and of darker tones, to either side; both art styles alike.

    Attributes:
        weights: [N] probability of each image in one draw; sums to 1.
        labels: per image the columns `role`, `gender`, `skin_tone`.
    """

    weights: np.ndarray
    labels: Sequence[dict[str, str]]

    @classmethod
    def of(cls, folder: "ImageFolder", one_way: bool = False) -> "Draw":
        """Weight the images of a labelled folder so that every role shows its shares.

        Args:
            folder: with the columns `role`, `gender` and `skin_tone`.
            one_way: every role has `GENDER_SHARES` and `TONE_SHARES`, instead of shares of its own by `leaning`.
        """
        labels = [item.labels for item in folder.items]
        cells = [(row["role"], row["gender"], row["skin_tone"]) for row in labels]
        roles, size = {role for role, _, _ in cells}, Counter(cells)
        gender, tone = leaning(roles, GENDER_SEED), leaning(roles, TONE_SEED)

        def weight(role: str, who: str, skin: str) -> float:
            if one_way:
                return GENDER_SHARES[who] * TONE_SHARES[skin]
            side = tone[role] / len(DARK) if skin in DARK else (1 - tone[role]) / len(LIGHT)
            return (gender[role] if who == "man" else 1 - gender[role]) * side

        weights = np.array([weight(*cell) / size[cell] for cell in cells])
        return cls(weights / weights.sum(), labels)

    def captions(self, indices: Sequence[int], rng: np.random.Generator) -> list[str]:
        """Caption a draw: half neutral, the rest saying gender, tone or both; one in ten dropped for guidance."""
        says, which, style, drop = rng.random((4, len(indices)))
        frames = np.where(style < 0.85, 0, rng.integers(1, len(FRAMES), len(indices)))
        out = []
        for number, index in enumerate(indices):
            row = self.labels[index]
            gender = GENDER_WORDS[row["gender"]][int(which[number] > 0.8)] if 0.5 <= says[number] < 0.85 else ""
            tone = row["skin_tone"] if says[number] >= 0.7 else ""
            text = FRAMES[frames[number]].format(caption(row["role"], gender, tone))
            out.append("" if drop[number] < 0.1 else text)
        return out


def all_captions(draw: Draw) -> list[str]:
    """List every sentence that `Draw.captions` can make, plus the neutral words that an audit uses."""
    genders = ["", *itertools.chain.from_iterable(GENDER_WORDS.values())]
    roles = sorted({row["role"] for row in draw.labels})
    texts = [caption(role, gender, tone) for role in roles for gender in genders for tone in ("", *TONE_WORDS)]
    return [frame.format(text) for frame in FRAMES for text in texts] + ["a person", "people"]
