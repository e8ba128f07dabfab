"""Prompts as a user gives them, and names of folders made from them."""

import re
from collections.abc import Iterable
from pathlib import Path

from ...debias.core.error import DDMError

LONGEST = 60


def read_prompts(text: str) -> list[str]:
    """Prompts of "a firefighter;a doctor", or of a text file with one in a line ("#" begins a remark).

    Repeated prompts are given once.

    Raises:
        DDMError: no prompt, no such file, or one that is not UTF-8.
    """
    path = Path(text)
    if _is_file(path):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DDMError(f"The prompts in {path} cannot be read ({error}). Save the file as UTF-8 text.") from error
        lines = [line for line in lines if not line.lstrip().startswith("#")]
    elif path.suffix.lower() == ".txt" and ";" not in text:
        raise DDMError(f"There is no file {path} with prompts. Check its name, or give prompts as 'a doctor;a pilot'.")
    else:
        lines = text.split(";")
    prompts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not prompts:
        raise DDMError(
            f"There is no prompt in {text!r}. Give some as 'a doctor;a pilot', or a file with one in a line."
        )
    return prompts


def slugs(prompts: Iterable[str]) -> dict[str, str]:
    """A folder name for each prompt: words joined by hyphens, short, no two alike."""
    taken: set[str] = set()
    names = {}
    for prompt in prompts:
        stem = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:LONGEST].rstrip("-") or "prompt"
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        names[prompt] = name
    return names


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        # A long list of prompts is no possible file name.
        return False
