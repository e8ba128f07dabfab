"""The systems that are compared, as data: how each is trained by its command, and how it is used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..debias.groups.diffusion_classifier import say
from ..training.embedded.tiny_people import TONE_WORDS, caption
from .digits import PAIRS
from .faces import CONCEPTS
from .imbalance import BOTH_WAYS, OCCUPATIONS
from .recipe import FACES, SKEWED, UNSEEN
from .subject import PERSONS, Subject, digits, photographs

LOOKS = ("bald", "blond haired", "curly haired", "older", "red haired", "white haired")
GESTURES = (
    "bowing", "facepalming", "frowning", "gesturing no", "gesturing ok", "pouting", "raising hand", "shrugging",
    "tipping hand", "wearing turban",
)  # fmt: skip
# A pair of digits has one prompt. It is asked for ten times over, so that there are enough images, and what is given
# by prompt is of as many images as it is for people.
AGAIN = 10
# Columns that several pages compare.
TOGETHER, PRICE = "FD, all prompts together", "KID to the base"


@dataclass(frozen=True)
class Task:
    """What is to be balanced.

    Attributes:
        title: in words.
        images: the set that is learnt from; see `image_folders`.
        words: by column (a probe's name too), the word that says each class.
        target: by column, the share of each class; equal ones where it is not named.
        families: by name, the concepts that are asked for.
        frames: by family, how its prompts are written, such as "a photo of {}"; the caption alone where none is named.
        subject: what the base makes images of.
    """

    title: str
    images: str
    words: Mapping[str, Mapping[str, str]]
    target: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    families: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"occupations": OCCUPATIONS})
    frames: Mapping[str, str] = field(default_factory=dict)
    subject: Subject = PERSONS

    @property
    def both_ways(self) -> bool:
        """Whether prompts lean to either side, so that all of them together say nothing."""
        return self.images.partition(",")[0] in (*BOTH_WAYS, FACES)

    def prompts(self, word: str = "") -> list[str]:
        """A prompt for each concept, with a word said."""
        return [
            self.frames.get(name, "{}").format(say(caption(concept), word) if word else caption(concept))
            for name, family in self.families.items()
            for concept in family
        ]

    @property
    def concepts(self) -> list[str]:
        """The concepts of all families."""
        return [concept for family in self.families.values() for concept in family]

    def shares(self, column: str, classes: Sequence[str]) -> np.ndarray:
        """The target [K] of a column, in the order of the classes."""
        given = self.target.get(column, dict.fromkeys(classes, 1 / len(classes)))
        return np.array([given[name] for name in classes])

    def target_of(self, column: str, said: bool = False) -> str:
        """The target of a column as commands take it, over its classes or, if `said`, over their words."""
        if column not in self.target:
            return "uniform"
        names = self.words[column] if said else {name: name for name in self.words[column]}
        return ",".join(f"{names[name]}={share:g}" for name, share in self.target[column].items())

    def targets(self, said: bool = False) -> str:
        """All targets as `ddm train` takes them."""
        return ";".join(self.target_of(column, said) for column in self.words) if self.target else "uniform"


GENDER = {"man": "man", "woman": "woman"}
TASKS = {
    "gender": Task("gender, six men to one woman", "men", {"gender": GENDER}),
    "gender-both-ways": Task(
        "gender, some occupations six men to one woman and others one to six", "gender both ways", {"gender": GENDER}
    ),
    "gender-unseen": Task(
        "gender, learnt from half of the occupations, asked for the others and in other words",
        UNSEEN,
        {"gender": GENDER},
        families={
            "learnt": OCCUPATIONS[::2],
            "unseen": OCCUPATIONS[1::2],
            "a photo of": OCCUPATIONS[::2],
            "at work": OCCUPATIONS[::2],
        },
        frames={"a photo of": "a photo of {}", "at work": "{} at work"},
    ),
    "tone": Task("skin tones, as skewed as the base's", SKEWED, {"skin_tone": TONE_WORDS}),
    "gender-tone": Task("gender and skin tones jointly", SKEWED, {"gender": GENDER, "skin_tone": TONE_WORDS}),
    "gender-75-25": Task(
        "gender, three men to one woman asked for",
        "men",
        {"gender": GENDER},
        {"gender": {"man": 0.75, "woman": 0.25}},
    ),
    "gender-25-75": Task(
        "gender, one man to three women asked for",
        "men",
        {"gender": GENDER},
        {"gender": {"man": 0.25, "woman": 0.75}},
    ),
    "families": Task(
        "gender, in two families of prompts with one adapter",
        "men",
        {"gender": GENDER},
        families={"occupations": OCCUPATIONS, "looks and gestures": (*LOOKS, *GESTURES)},
    ),
    **{
        name: Task(
            f"handwritten digits, four {pair.digits[0]}s to one {pair.digits[1]}",
            name,
            {pair.column: {digit: digit for digit in pair.digits}},
            families={"digits": ("digit",) * AGAIN},
            subject=digits(name),
        )
        for name, pair in PAIRS.items()
    },
    **{
        f"photographs-{name}": Task(
            f"ascribed gender in photographs of faces, {leaning}",
            f"photographs, {name}",
            {"ascribed_gender": GENDER},
            families={"ages and lights": CONCEPTS},
            subject=photographs(name),
        )
        for name, leaning in (
            ("natural", "as common as the data set has it"),
            ("sharpened", "some captions six men to one woman and others one to six"),
        )
    },
}


@dataclass(frozen=True)
class System:
    """One row of the table.

    Attributes:
        title: in words.
        needs: what a person must give besides images and prompts.
        command: what trains it, as `ddm` takes it. Filled in are {images}, {out} and, where one file serves all
            attributes, {columns}, {words}, {targets}, {said} (the targets, over the words), {probes} (with their
            targets), {judge} (a probe of what is asked for) and {prompts}; else {column}, {word} and {probe} of each.
            Empty: there is nothing to train.
        uses: what its file is to the sampler: "adapter", "guide" or "invariant".
        mode: of distribution guidance.
        singly: images are made one at a time, as hosts do in a queue.
        with_adapter: another row, whose adapter is used besides, at strength 1/2.
        alternate: say the words of the attributes in turn.
        joint: whether it can balance several attributes.
        target: whether it can be asked for other shares than equal ones.
    """

    title: str
    needs: str = "nothing"
    command: str = ""
    uses: str = "adapter"
    mode: str = "queue"
    singly: bool = False
    with_adapter: str = ""
    alternate: bool = False
    joint: bool = True
    target: bool = True

    @property
    def file_for_each(self) -> bool:
        """Whether each attribute has a file of its own."""
        return any(name in self.command for name in ("{column}", "{word}", "{probe}"))

    def refused(self, task: Task) -> str:
        """Why a task cannot be asked of it; empty if it can."""
        if len(task.words) > 1 and not self.joint:
            return "it balances one attribute"
        if self.alternate and task.frames:
            return "it says words in captions alone"
        if task.target and not self.target:
            return "it cannot be asked for other shares than equal ones"
        return ""


DDM = "train {images} --out {out} --groups "
WORDS = DDM + "'words:{words}' --target '{said}'"
PAPER = "train {images} --out {out} --calibrate 0 --objective ddm-paper --groups labels:{column} --paper-alpha "
ALIGN = "align {probes} {prompts} --out {out} --train "
HEAD = "head {images} --out {out} --probe {probe}"
GROUPED = "head {images} --out {out} --groups "
SYSTEMS = {
    "base": System("the base as it is"),
    "lora": System("an ordinary LoRA (the paper's objective at α 0)", command=PAPER + "0", joint=False, target=False),
    "alternation": System("the words said in turn", "words, and prompts that can be edited", alternate=True),
    "ddm-discovered": System("ddm, discovered", command=DDM + "discovered", target=False),
    "ddm-words": System("ddm, words", "words", WORDS),
    "ddm-words-each": System("ddm, words, each prompt corrected", "words", WORDS + " --steps 500 --by-prompt 16"),
    "ddm-words-long": System(
        "ddm, words, each prompt corrected, 1,200 steps", "words", WORDS + " --steps 1200 --by-prompt 16"
    ),
    **{
        f"model-{source}": System(
            f"ddm, {source}, the model its own teacher", needs, DDM + groups + " --teacher model", target=named
        )
        for source, needs, groups, named in (
            ("words", "words", "'words:{words}' --target '{said}'", True),
            ("labels", "labels", "labels:{columns} --target '{targets}'", True),
            ("discovered", "nothing", "discovered", False),
            ("auto", "nothing", "auto", False),
        )
    },
    "ddm-labels": System("ddm, labels", "labels", DDM + "labels:{columns} --target '{targets}'"),
    **{
        f"ddm-paper-{alpha}": System(f"ddm-paper, α {alpha}", "labels", PAPER + alpha, joint=False, target=False)
        for alpha in (".005", ".01", ".05", ".1")
    },
    "alignment-unet": System("alignment, U-Net", "two probes", ALIGN + "unet --keep {judge}"),
    "alignment-text": System("alignment, text encoder", "two probes", ALIGN + "text-encoder --keep {judge}"),
    "alignment-tokens": System("alignment, soft tokens", "a probe", ALIGN + "tokens"),
    "guidance-queue": System("distribution guidance, queue", "a probe", HEAD, "guide", "queue"),
    "guidance-single": System(
        "distribution guidance, queue of single images", "a probe", HEAD, "guide", "queue", singly=True
    ),
    "guidance-batch": System("distribution guidance, batch", "a probe", HEAD, "guide", "batch"),
    **{
        f"guidance-{source}": System(f"distribution guidance by {source}, queue", source, GROUPED + groups, "guide")
        for source, groups in (("words", "'words:{word}'"), ("labels", "labels:{column}"))
    },
    **{
        f"guidance-{source}": System(
            f"distribution guidance, {source}, queue", command=GROUPED + source, uses="guide", joint=False, target=False
        )
        for source in ("auto", "discovered")
    },
    "invariant": System("invariant guidance", "nothing", "invariant {images} --out {out}", "invariant", target=False),
    "combined": System(
        "ddm, discovered, at α ½, and distribution guidance",
        "a probe",
        HEAD,
        "guide",
        "queue",
        with_adapter="ddm-discovered",
    ),
}
