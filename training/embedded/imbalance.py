"""Imbalanced sets drawn from the example images: one side whole, two random images per role of the other."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..data.image_folder import METADATA
from .tiny_people import DARK, GENDER_SEED, LIGHT, TONE_SEED, caption, leaning

# name: (column, values of the majority side)
IMBALANCES = {
    "men": ("gender", ("man",)),
    "women": ("gender", ("woman",)),
    "light": ("skin_tone", LIGHT),
    "dark": ("skin_tone", DARK),
    "noto": ("art_style", ("noto",)),
    "twemoji": ("art_style", ("twemoji",)),
}
# Sets that lean both ways, each role to the side that it leans to in the embedded model.
# name: (column, values of one side, seed of `leaning`)
BOTH_WAYS = {
    "gender both ways": ("gender", ("man",), GENDER_SEED),
    "tones both ways": ("skin_tone", DARK, TONE_SEED),
}
OCCUPATIONS = (
    "artist", "astronaut", "construction worker", "cook", "detective", "doctor", "factory worker", "farmer",
    "firefighter", "guard", "judge", "mechanic", "office worker", "pilot", "police officer", "scientist", "singer",
    "student", "teacher", "technologist",
)  # fmt: skip


def draw_imbalanced(source: Path, name: str, out: Path, seed: int = 0) -> Path:
    """Copy 504 images (6:1) into `out`, with captions "a <role>" and, for scoring only, the true columns.

    Args:
        source: the example set (a folder with metadata.jsonl).
        name: a key of `IMBALANCES` or `BOTH_WAYS`.
        out: made anew.
        seed: of the two minority images per role.
    """
    chosen = [row for _, rows in _choose(source, name, seed) for row in rows]
    shutil.rmtree(out, ignore_errors=True)
    (out / "images").mkdir(parents=True)
    for row in chosen:
        shutil.copyfile(source / row["file_name"], out / row["file_name"])
    lines = [json.dumps({**row, "text": caption(row["role"])}, ensure_ascii=False) for row in chosen]
    (out / METADATA).write_text("\n".join(lines) + "\n", "utf-8")
    return out


def draw_unlabelled(source: Path, name: str, out: Path, seed: int = 0) -> Path:
    """Copy the images that `draw_imbalanced` draws as an artist would have them: captions in .txt files, no labels.

    The images of a role are shuffled and numbered, so that neither name nor order says who is in them. Arguments as
    in `draw_imbalanced`.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for role, rows in _choose(source, name, seed):
        random.Random(f"{seed} {role}").shuffle(rows)
        for number, row in enumerate(rows, 1):
            image = out / f"{role}-{number:02}.png"
            shutil.copyfile(source / row["file_name"], image)
            image.with_suffix(".txt").write_text(caption(role) + "\n", "utf-8")
    return out


def _choose(source: Path, name: str, seed: int) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Yield every role with its chosen rows of metadata.jsonl: the majority side, then two of the other."""
    rows = [json.loads(line) for line in (source / METADATA).read_text("utf-8").splitlines()]
    roles = {row["role"] for row in rows}
    if name in BOTH_WAYS:
        column, values, deal = BOTH_WAYS[name]
        leans = {role: share > 0.5 for role, share in leaning(roles, deal).items()}
    else:
        (column, values), leans = IMBALANCES[name], dict.fromkeys(roles, True)
    rng = random.Random(seed)
    for role in sorted(roles):
        ours = [row for row in rows if row["role"] == role]
        common = [row for row in ours if (row[column] in values) == leans[role]]
        rare = [row for row in ours if (row[column] in values) != leans[role]]
        yield role, common + rng.sample(rare, 2)
