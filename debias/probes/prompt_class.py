"""Which class of a probe a prompt names: a probe for roles knows what `a firefighter` should show."""

import re
from collections.abc import Sequence

import numpy as np

from .records import Attribute


def recognised_by(attribute: Attribute, prompts: Sequence[str]) -> np.ndarray | None:
    """Class index of each prompt [P]; None unless every prompt names one and together they name several.

    A class is named if its words stand in the prompt, underscores and hyphens read as blanks; the longest name counts,
    so that `fire fighter` is not `fighter`.
    """
    names = [_words(name) for name in attribute.classes]
    longest_first = sorted(range(len(names)), key=lambda i: -len(names[i]))
    found = []
    for prompt in prompts:
        words = _words(prompt)
        hit = next((i for i in longest_first if names[i] and re.search(rf"\b{re.escape(names[i])}\b", words)), None)
        if hit is None:
            return None
        found.append(hit)
    several = len(set(found)) > 1 or len(prompts) == 1
    return np.array(found) if several else None


def _words(text: str) -> str:
    return " ".join(re.split(r"[\s_\-]+", text.lower().strip()))
