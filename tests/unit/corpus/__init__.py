"""Inputs that were once read wrongly or lost in silence, or are made to do harm, built by code.

A case is a function of an empty folder. It builds its input there and uses it, and is marked as one of

- used rightly: it returns True,
- named: it returns sentences, one of which says what is left out or doubted,
- refused: it raises our own error, a sentence.

The kinds are those of the table in docs/what_is_read.md.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

KINDS = {
    "A": "images that show nothing",
    "B": "bases of another kind than they are taken for",
    "C": "keys of a LoRA that are dropped",
    "D": "images that never enter the list",
    "E": "captions and tables that lie there unused",
    "F": "several captions of one image",
    "G": "colours and long texts in images",
    "H": "file names that are not UTF-8",
    "I": "encodings of text files",
    "J": "what a library has no words for",
    "K": "folders that may not be written",
    "L": "reasons that are announced and not given",
    "M": "prompts that are meant to be files",
    "N": "unlike things in one row of a report",
    "O": "prompts that say who is meant",
    "P": "two meanings of chance",
    "hostile": "files that are made to do harm",
}


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        kind: of `KINDS`.
        outcome: "used", "named" or "refused".
        says: pattern of the sentence that names or refuses it.
        run: builds and uses it in an empty folder.
    """

    kind: str
    outcome: str
    says: str
    run: Callable[[Path], bool | str | Iterable[str] | None]

    def __str__(self) -> str:
        return f"{self.kind}-{self.run.__name__}"


CASES: list[Case] = []


def used(kind: str) -> Callable:
    """Mark a case that returns True."""
    return _case(kind, "used", "")


def named(kind: str, says: str) -> Callable:
    """Mark a case that returns sentences, of which one matches."""
    return _case(kind, "named", says)


def refused(kind: str, says: str) -> Callable:
    """Mark a case that raises our own error, which matches."""
    return _case(kind, "refused", says)


def _case(kind: str, outcome: str, says: str) -> Callable:
    def mark(run: Callable) -> Callable:
        CASES.append(Case(kind, outcome, says, run))
        return run

    return mark


def all_cases() -> list[Case]:
    """The cases of every module of this folder."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return CASES
