"""Prompts as a user gives them, and names of folders made from them."""

import re
from collections.abc import Iterable
from pathlib import Path

from ...debias.core.error import DDMError
from ...debias.core.io import read_text

LONGEST = 60
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".toml", ".yaml", ".yml", ".xlsx", ".parquet")
# What ends as files of text do, or begins as paths do, is meant to be one.
_PATH = re.compile(r"\.(txt|csv|tsv|jsonl?|md|toml|ya?ml|xlsx|parquet)$|^(\.{0,2}[/\\]|~/|[a-z]:[/\\])", re.IGNORECASE)


def read_prompts(text: str) -> list[str]:
    """Prompts of "a firefighter;a doctor", or of a text file with one in a line ("#" begins a remark).

    Repeated prompts are given once.

    Raises:
        DDMError: no prompt, no such file, or a table.
    """
    path = Path(text)
    if _is_file(path):
        if path.suffix.lower() in _TABLES:
            raise DDMError(
                f"Prompts are read from a text file with one in a line, and {path} is none. Save it as .txt."
            )
        lines = [line for line in read_text(path).splitlines() if not line.lstrip().startswith("#")]
    elif ";" not in text and _PATH.search(text):
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
