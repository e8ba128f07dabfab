"""The report in a sentence or two, as a person would say it."""

from collections.abc import Sequence

from . import intervals
from .report import Estimate, Measured, Quality, Setting

# Above this share of images of another kind, the report begins with it.
MANY_UNLIKE = 0.2
PLURALS = {"man": "men", "woman": "women", "person": "people", "child": "children", "boy": "boys", "girl": "girls"}


def percent(value: float | None) -> str:
    """A share as `52%`."""
    return "–" if value is None else f"{100 * value:.0f}%"


def percent_range(one: Estimate) -> str:
    """An interval of a share as `49–55%`."""
    return "–" if one.low is None else f"{100 * one.low:.0f}–{100 * one.high:.0f}%"


def summarise(attributes: Sequence[Measured], settings: Sequence[Setting], base: int, after: int) -> str:
    """What the report says first: of several prompts, how far each is from the target; then what they share.

    Before that, it says where a probe was asked about images that it was not made for.
    """
    return " ".join([*_asked_wrongly(attributes, base, after), _result(attributes, settings, base, after)])


def _asked_wrongly(attributes: Sequence[Measured], base: int, after: int) -> list[str]:
    """A sentence for every probe to which many images are unlike those that it was made for."""
    said = []
    for one in attributes:
        shown = [one.overall[i] for i in {base, after}]
        images, unlike = sum(each.images for each in shown), sum(each.unlike for each in shown)
        if images and unlike / images > MANY_UNLIKE:
            what = f" ({one.made_for})" if one.made_for else ""
            said.append(
                f"{unlike:,} of {images:,} images are unlike those that the probe for {one.name} was made for{what}: "
                "they are not counted, and it may be the wrong probe."
            )
    return said


def _result(attributes: Sequence[Measured], settings: Sequence[Setting], base: int, after: int) -> str:
    first = attributes[0]
    before, now = first.overall[base], first.overall[after]
    prompts = {row.prompt for row in first.prompts if row.condition == after}
    if not first.targeted or len(prompts) < 2 or None in (before.fd.value, now.fd.value):
        return _shares(attributes, settings, base, after)
    start, end = (_when(settings[one]).rstrip(",") for one in (base, after))
    distance = f"{_far(now.fd.value)} ({_far(now.fd.low)}–{_far(now.fd.high)})"
    if base == after:
        distance = f"{distance} from the target"
    else:
        distance = f"{_far(before.fd.value)} from the target {start}, {distance} {end}"
    chance = "" if now.floor_high is None else f"; a fair model shows up to {_far(now.floor_high)}"
    worst = f"{now.worst.group} {percent(now.worst.share)}"
    return (
        f"Prompt by prompt, {first.name} is {distance} (FD{chance}){_judged(first, now, base == after)}. "
        f"Worst is “{now.worst.prompt}”: {worst}. "
        f"Over all prompts: {_lower(_shares(attributes, settings, base, after, judged=False))}"
    )


def _far(value: float | None) -> str:
    """A distance as `.43`."""
    return "–" if value is None else f"{value:.2f}".removeprefix("0")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _shares(
    attributes: Sequence[Measured], settings: Sequence[Setting], base: int, after: int, judged: bool = True
) -> str:
    """One sentence: the class furthest above its target, before and after."""
    first = attributes[0]
    before, now = first.overall[base], first.overall[after]
    values = [one.value for one in before.shares]
    if None in values:
        return f"In none of {before.images:,} images could the probe tell {first.name}."
    excess = [value - share for value, share in zip(values, first.target, strict=True)]
    top = excess.index(max(excess)) if first.targeted else values.index(max(values))
    name, verb, pronoun = who(first.classes[top])
    images = f"{before.images:,} images"
    if before.images == 1:
        return f"One image is too few to say anything about {first.name}."
    if base == after:
        share = f"{percent(values[top])} ({percent_range(before.shares[top])})"
        text = f"{name[:1].upper() + name[1:]} {verb} {share} of {images}"
        return f"{text}{_judged(first, now, True) if judged else ''}."
    start, end = _when(settings[base]), _when(settings[after])
    text = f"{start[:1].upper() + start[1:]} {name} {verb} {percent(values[top])} of {images}"
    if now.shares[top].value is None:
        return f"{text}; {end} none could be told."
    share = f"{percent(now.shares[top].value)} ({percent_range(now.shares[top])})"
    return f"{text}; {end} {pronoun} {verb} {share}{_judged(first, now, False) if judged else ''}."


def remarks(
    attributes: Sequence[Measured],
    prices: Sequence[Quality],
    settings: Sequence[Setting],
    base: int,
    after: int,
    margin: float,
) -> list[str]:
    """Short sentences on what else matters: prompts that differ, drift, doubtful images or probes, price."""
    said = []
    for one in attributes:
        now = one.overall[after]
        if one.targeted:
            verdicts = [row.verdict for row in one.prompts if row.condition == after]
            words = intervals.fair_within(margin)
            fair, unfair = (verdicts.count(word) for word in (words, intervals.NOT_FAIR))
            if len(verdicts) > 1 and fair + unfair:
                said.append(
                    f"Of {len(verdicts)} prompts on their own, {fair} are {words}, {unfair} are not "
                    f"fair, and for {len(verdicts) - fair - unfair} these images cannot tell."
                )
        elif now.drift:
            line = f"Not asked to change: {one.name}, {now.drift}"
            if now.shift is not None:
                line += (
                    f"; by prompt it moved by {percent(now.shift.mean)} of the images (chance alone: "
                    f"{percent(now.shift.floor)}), most under “{now.shift.worst}”: {percent(now.shift.worst_shift)}"
                )
            said.append(f"{line}.")
        if now.images and now.undetermined / now.images > 0.05:
            other = f" ({now.unlike} of them are unlike those that its probe was made for)" if now.unlike else ""
            said.append(
                f"In {percent(now.undetermined / now.images)} of the images {one.name} is undetermined{other}; "
                "they are shown, not counted."
            )
        if now.corrected is not None and one.accuracy is not None and one.accuracy < 1:
            shares = zip(one.classes, now.corrected, strict=True)
            listed = ", ".join(f"{name} {percent(share.value)} ({percent_range(share)})" for name, share in shares)
            said.append(f"Corrected for what its probe gets wrong, {one.name} is: {listed}.")
        if one.made_for:
            said.append(f"The probe for {one.name} was made for {one.made_for}.")
        if one.accuracy is None:
            said.append(f"How often the probe for {one.name} is right is not known until you check it on some images.")
        elif one.accuracy < 0.85:
            said.append(
                f"The probe for {one.name} is right in only {percent(one.accuracy)}; read its shares with care."
            )
    known = {one.condition: one.recognised for one in prices if one.recognised is not None}
    if base in known and after in known:
        line = f"The subject is recognised in {percent(known[after].value)} of the images"
        said.append(f"{line}, before in {percent(known[base].value)}." if base != after else f"{line}.")
    return said


def _when(setting: Setting) -> str:
    """`at α = 0`, or the name of a condition that has one: `before,`."""
    return f"{setting.label}," if setting.alpha is None and setting.cfg is None else f"at {setting.label}"


def _judged(attribute: Measured, now: object, single: bool) -> str:
    if not attribute.targeted:
        return ""
    text = {
        intervals.TOO_FEW: "too few images for a verdict",
        intervals.CANNOT_TELL: "and more images are needed to call it fair or not",
        intervals.NOT_FAIR: "which is not fair" if single else "which is not fair yet",
    }.get(now.verdict, now.verdict)
    return f", {text}" if text else ""


def who(name: str) -> tuple[str, str, str]:
    """The class as subject, its verb, and its pronoun."""
    plural = PLURALS.get(name.lower()) or (name if name.lower() in PLURALS.values() else None)
    return (plural, "are", "they") if plural else (f"“{name}”", "is", "it")
