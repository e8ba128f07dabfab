"""A report together with what it was made from, so that two of them can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..core.error import DDMError
from ..probes.records import Attribute, Condition, EvaluationData
from .evaluate import build_report
from .report import FairnessReport


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Images as probes saw them, and the report on them."""

    records: EvaluationData
    report: FairnessReport

    @classmethod
    def of(cls, records: EvaluationData, title: str = "Fairness report", random_seed: int = 0) -> "Evaluation":
        """Measure the records; errors as in `build_report`."""
        return cls(records, build_report(records, title, random_seed=random_seed))


def compare(before: Evaluation, after: Evaluation, title: str = "Before and after", random_seed: int = 0) -> Evaluation:
    """One study of the prompts that two have in common, with `before` as its base.

    Images of the same prompt and seed are paired, so that the interval of the change is that of a paired difference.
    Of a study at several strengths, its base is taken for `before` and its last for `after`.

    Raises:
        DDMError: the two are on other attributes, targets or probes, or have no prompt in common.
    """
    first, second = before.records, after.records
    attributes = _common(first, second)
    prompts = [prompt for prompt in first.prompts if prompt in set(second.prompts)]
    if not prompts:
        raise DDMError(
            "The two reports have no prompt in common, so a difference could come from the prompts alone. Make both "
            "with the same prompts."
        )
    notes = _left_out(first, second, prompts)
    halves = [_rows(first, first.base, prompts), _rows(second, second.after, prompts)]
    if any(not len(rows) for rows in halves):
        raise DDMError("One of the two reports has no image of the prompts that both have. Make both with the same.")
    conditions = _conditions(first.conditions[first.base], second.conditions[second.after])
    sides = list(zip((first, second), halves, strict=True))

    def together(name: str) -> list | None:
        columns = [getattr(side, name) for side, _ in sides]
        if any(column is None for column in columns):
            return None
        return [column[i] for column, (_, rows) in zip(columns, sides, strict=True) for i in rows]

    features = together("features")
    if features is not None and len({len(one) for one in features}) > 1:
        features = None
    merged = EvaluationData.of(
        [side.prompts[side.prompt[i]] for side, rows in sides for i in rows],
        [_joined(pair, halves) for pair in attributes],
        [condition for condition, rows in zip(conditions, halves, strict=True) for _ in rows],
        together("seed"),
        features=None if features is None else np.array(features),
        paths=together("paths"),
        thumbnails=together("thumbnails"),
        names=together("names"),
        notes=notes,
    )
    if not len(merged.pairs(merged.after)):
        merged = _with_note(merged, "The two have no seed in common, so the change is one between other images.")
    return Evaluation.of(merged, title, random_seed)


def _common(first: EvaluationData, second: EvaluationData) -> list[tuple[Attribute, Attribute]]:
    """Pairs of the attributes that both have, that of the target first."""
    asked, told = first.attributes[0], second.attributes[0]
    if (asked.name, asked.classes) != (told.name, told.classes):
        raise DDMError(
            f"The first report is on {asked.name} ({', '.join(asked.classes)}), the second on {told.name} "
            f"({', '.join(told.classes)}). Make both with the same probe."
        )
    if asked.target != told.target:
        raise DDMError(
            f"The first report has the target {asked.target or 'none'}, the second {told.target or 'none'}. "
            "Make both with the same target."
        )
    for one, other in _named_alike(first, second):
        if one.accuracy != other.accuracy:
            raise DDMError(
                f"The two reports were made with different probes for {one.name}, so that a difference could come from "
                "the probes alone. Make both with the same probe."
            )
    return _named_alike(first, second)


def _named_alike(first: EvaluationData, second: EvaluationData) -> list[tuple[Attribute, Attribute]]:
    known = {(one.name, one.classes): one for one in second.attributes}
    return [(one, known[one.name, one.classes]) for one in first.attributes if (one.name, one.classes) in known]


def _left_out(first: EvaluationData, second: EvaluationData, prompts: Sequence[str]) -> list[str]:
    alone = [prompt for prompt in (*first.prompts, *second.prompts) if prompt not in set(prompts)]
    notes = [*first.notes, *second.notes]
    if alone:
        listed = ", ".join(f"“{prompt}”" for prompt in alone[:4]) + (", …" if len(alone) > 4 else "")
        notes.append(f"Left out, since only one of the two reports has them: {listed}.")
    return list(dict.fromkeys(notes))


def _rows(records: EvaluationData, condition: int, prompts: Sequence[str]) -> np.ndarray:
    wanted = np.isin(records.prompt, [i for i, prompt in enumerate(records.prompts) if prompt in set(prompts)])
    return np.flatnonzero(wanted & (records.condition == condition))


def _conditions(first: Condition, second: Condition) -> tuple[Condition, Condition]:
    """α of the two where it says which came first; else names."""
    known = first.alpha is not None and second.alpha is not None
    if known and 0 <= first.alpha < second.alpha and first.beside(second):
        return first, second
    if known and first.label != second.label:
        return Condition(name=f"before ({first.label})"), Condition(name=f"after ({second.label})")
    return Condition(name="before"), Condition(name="after")


def _joined(pair: tuple[Attribute, Attribute], halves: Sequence[np.ndarray]) -> Attribute:
    one = pair[0]
    probabilities = np.concatenate(
        [attribute.probabilities[rows] for attribute, rows in zip(pair, halves, strict=True)]
    )
    return replace(one, probabilities=probabilities)


def _with_note(records: EvaluationData, note: str) -> EvaluationData:
    return replace(records, notes=[*records.notes, note])
