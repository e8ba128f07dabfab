"""Imbalanced sets drawn from the example pictures: one side whole, two random pictures per role of the other."""

import json
import random
import shutil
from pathlib import Path

from comfyui_ddm.training.tiny_people import caption

LIGHT = ("default", "light", "medium-light")
# name: (column, values of the majority side)
IMBALANCES = {
    "men": ("gender", ("man",)),
    "women": ("gender", ("woman",)),
    "light": ("skin_tone", LIGHT),
    "dark": ("skin_tone", ("medium", "medium-dark", "dark")),
    "noto": ("art_style", ("noto",)),
    "twemoji": ("art_style", ("twemoji",)),
}
OCCUPATIONS = (
    "artist", "astronaut", "construction-worker", "cook", "detective", "doctor", "factory-worker", "farmer",
    "firefighter", "guard", "judge", "mechanic", "office-worker", "pilot", "police-officer", "scientist", "singer",
    "student", "teacher", "technologist",
)  # fmt: skip


def draw_imbalanced(source: Path, name: str, out: Path, seed: int = 0) -> Path:
    """Copy 504 pictures (6:1) into `out`, with captions "a <role>" and, for scoring only, the true columns.

    Args:
        source: the example set (a folder with metadata.jsonl).
        name: a key of `IMBALANCES`.
        out: made anew.
        seed: of the two minority pictures per role.
    """
    column, majority = IMBALANCES[name]
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text("utf-8").splitlines()]
    rng = random.Random(seed)
    chosen = []
    for role in sorted({row["role"] for row in rows}):
        ours = [row for row in rows if row["role"] == role]
        chosen += [row for row in ours if row[column] in majority]
        chosen += rng.sample([row for row in ours if row[column] not in majority], 2)
    shutil.rmtree(out, ignore_errors=True)
    (out / "images").mkdir(parents=True)
    for row in chosen:
        shutil.copyfile(source / row["file_name"], out / row["file_name"])
    lines = [json.dumps({**row, "text": caption(row["role"])}, ensure_ascii=False) for row in chosen]
    (out / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return out
