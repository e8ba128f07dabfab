"""The systems that are compared, as data: how each is trained by its command, and how it is used."""

from dataclasses import dataclass

from .recipe import SKEWED


@dataclass(frozen=True)
class Task:
    """What is to be balanced.

    Attributes:
        title: in words.
        pictures: the set that is learnt from: a key of `IMBALANCES`, or `SKEWED`.
        words: by column (a probe's name too), the words of its classes, joined by bars.
    """

    title: str
    pictures: str
    words: dict[str, str]


TONES = "light skin|medium-light skin|medium skin|medium-dark skin|dark skin"
TASKS = {
    "gender": Task("gender, six men to one woman", "men", {"gender": "man|woman"}),
    "tone": Task("skin tones, as skewed as the base's", SKEWED, {"skin_tone": TONES}),
    "gender-tone": Task("gender and skin tones jointly", SKEWED, {"gender": "man|woman", "skin_tone": TONES}),
}


@dataclass(frozen=True)
class System:
    """One row of the table.

    Attributes:
        title: in words.
        needs: what a person must give besides pictures and prompts.
        command: what trains it, as `ddm` takes it; {pictures}, {out}, {column}, {words}, {probe}, {probes} and
            {prompts} are filled in. Empty: there is nothing to train.
        uses: what its file is to the sampler: "adapter", "guide" or "invariant".
        mode: of distribution guidance.
        with_adapter: another row, whose adapter is used besides, at strength 1/2.
        alternate: say the words of the attribute in turn.
        joint: whether it can balance several attributes.
    """

    title: str
    needs: str = "nothing"
    command: str = ""
    uses: str = "adapter"
    mode: str = "queue"
    with_adapter: str = ""
    alternate: bool = False
    joint: bool = False


DDM = "train {pictures} --out {out} --groups "
PAPER = "train {pictures} --out {out} --calibrate 0 --objective ddm-paper --groups labels:{column} --paper-alpha "
ALIGN = "align {probes} --prompts {prompts} --out {out} --train "
HEAD = "head {pictures} --out {out} --probe {probe}"
SYSTEMS = {
    "base": System("the base as it is", joint=True),
    "lora": System("an ordinary LoRA (the paper's objective at α 0)", command=PAPER + "0"),
    "alternation": System("the words said in turn", "words, and prompts that can be edited", alternate=True),
    "ddm-discovered": System("ddm, discovered", command=DDM + "discovered", joint=True),
    "ddm-words": System("ddm, words", "words", DDM + "'words:{words}'"),
    "ddm-labels": System("ddm, labels", "labels", DDM + "labels:{column}"),
    **{
        f"ddm-paper-{alpha}": System(f"ddm-paper, α {alpha}", "labels", PAPER + alpha)
        for alpha in (".005", ".01", ".05", ".1")
    },
    "alignment-unet": System("alignment, U-Net", "a probe", ALIGN + "unet", joint=True),
    "alignment-text": System("alignment, text encoder", "a probe", ALIGN + "text-encoder", joint=True),
    "alignment-tokens": System("alignment, soft tokens", "a probe", ALIGN + "tokens", joint=True),
    "guidance-queue": System("distribution guidance, queue", "a probe", HEAD, "guide", "queue", joint=True),
    "guidance-batch": System("distribution guidance, batch", "a probe", HEAD, "guide", "batch", joint=True),
    "guidance-words": System(
        "distribution guidance by words, queue",
        "words",
        "head {pictures} --out {out} --groups 'words:{words}'",
        "guide",
    ),
    "invariant": System("invariant guidance", "nothing", "invariant {pictures} --out {out}", "invariant", joint=True),
    "combined": System(
        "ddm, discovered, at α ½, and distribution guidance",
        "a probe",
        HEAD,
        "guide",
        "queue",
        with_adapter="ddm-discovered",
        joint=True,
    ),
}
