"""What was expected of the systems before any was measured, and what the results say."""

from collections.abc import Callable, Mapping, Sequence

from .result import Result
from .system import PRICE, TOGETHER

Rows = Mapping[str, Result]
TRAINING = "training"
PAPER = ("ddm-paper-.005", "ddm-paper-.01", "ddm-paper-.05", "ddm-paper-.1")
ALIGNMENT = ("alignment-unet", "alignment-text", "alignment-tokens")
GUIDANCE = ("guidance-queue", "guidance-batch", "guidance-words")
# How near two systems have to be to count as equally far from the target, and how near to it guidance should come.
NEAR = 0.05
TENTH = 0.1


def expectations(tasks: Mapping[str, Rows]) -> str:
    """Each expectation with its figures, as Markdown: a line for each task where what it compares was measured."""
    parts = [
        "## Expected, and found",
        "*Without labels, `ddm` beats invariant guidance and the published objective (its best α) on FD, at equal "
        "KID.* In brackets the KID. Balance alone takes that of the words said in turn.",
        _table(tasks, ["discovered", "invariant", "published", "words in turn", "FD lower"], _without_labels),
        "*With words, `ddm` is within .05 FD of alignment (the best of three) at a tenth of its training time.* In "
        "brackets the seconds of both trainings, beside other work.",
        _table(tasks, ["words", "alignment", "within .05", "a tenth of the time"], _with_words),
        "*Guidance reaches an FD of .05 or less without training the model.*",
        _table(tasks, ["queue", "batch", "by words, queue", "reached"], _guided),
        "*At strength 0 every method gives the base's images.* Yes, bit for bit: `tests/unit/test_contract.py` asks "
        "it of each.",
    ]
    return "\n\n".join(parts)


def _without_labels(rows: Rows) -> list[str] | None:
    ours, others = rows.get("ddm-discovered"), [rows.get("invariant"), _best(rows, PAPER)]
    if not ours or not any(others):
        return None
    shown = [_shown(one, PRICE) for one in (ours, *others, rows.get("alternation"))]
    return [*shown, _yes(all(ours.figure(TOGETHER).value < one.figure(TOGETHER).value for one in others if one))]


def _with_words(rows: Rows) -> list[str] | None:
    ours, other = rows.get("ddm-words"), _best(rows, ALIGNMENT)
    if not ours or not other:
        return None
    near = ours.figure(TOGETHER).value <= other.figure(TOGETHER).value + NEAR
    quick = ours.figure(TRAINING).value <= TENTH * other.figure(TRAINING).value
    return [_shown(ours, TRAINING), _shown(other, TRAINING), _yes(near), _yes(quick)]


def _guided(rows: Rows) -> list[str] | None:
    made = [rows.get(name) for name in GUIDANCE]
    if not any(made):
        return None
    return [*map(_shown, made), _yes(any(one.figure(TOGETHER).value <= NEAR for one in made if one))]


def _table(tasks: Mapping[str, Rows], heads: Sequence[str], compare: Callable[[Rows], list[str] | None]) -> str:
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    compared = {task: cells for task, rows in tasks.items() if (cells := compare(rows))}
    return "\n".join([*lines, *(f"| {task} | {' | '.join(cells)} |" for task, cells in compared.items())])


def _best(rows: Rows, names: Sequence[str]) -> Result | None:
    """The one of lowest FD among those that were measured."""
    found = [rows[name] for name in names if name in rows]
    return min(found, key=lambda one: one.figure(TOGETHER).value, default=None)


def _shown(result: Result | None, beside: str = "") -> str:
    """Its FD, and another figure in brackets; a dash if there is no such row."""
    if not result:
        return "–"
    return result.figure(TOGETHER).number + (f" ({result.figure(beside).number})" if beside else "")


def _yes(answer: bool) -> str:
    return "yes" if answer else "**no**"
