"""Before and after in one image: the same prompts and seeds, block above block, as it stands in a README."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from ..core.image import fit

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

TILE, GAP, MARGIN, SPACE = 128, 8, 28, 22
INK, MUTED, PAPER = "#24272c", "#6a6e75", "#ffffff"


@dataclass(frozen=True)
class Block:
    """What one setting made.

    Attributes:
        title: for instance `α = 0`.
        remark: what it is, and its figures, in a few words.
        rows: images, one row per seed and one column per prompt.
    """

    title: str
    remark: str
    rows: Sequence[Sequence[Image.Image]]


def draw_comparison(columns: Sequence[str], blocks: Sequence[Block], footer: str = "") -> Image.Image:
    """Draw blocks below each other, each with its title, under common column heads.

    Args:
        columns: what the prompts show; long names are wrapped.
        blocks: of as many columns each.
        footer: a line at the end.

    Returns:
        An RGB image; every image in it is 128 pixels wide.
    """
    head, plain, small = font(27, bold=True), font(23), font(17)
    names = [_wrapped(name, small) for name in columns]
    label, step = 24 * max(text.count("\n") + 1 for text in names), TILE + GAP
    title, foot = 68, 44 if footer else 0
    width = max(
        len(columns) * step - GAP,
        *(int(head.getlength(one.title) + SPACE + plain.getlength(one.remark)) for one in blocks),
    )
    height = 2 * MARGIN + sum(title + label + len(block.rows) * step for block in blocks) + foot
    sheet = Image.new("RGB", (2 * MARGIN + width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for block in blocks:
        base = top + 40
        draw.text((MARGIN, base), block.title, INK, head, anchor="ls")
        draw.text((MARGIN + draw.textlength(block.title, head) + SPACE, base), block.remark, INK, plain, anchor="ls")
        top += title
        for column, text in enumerate(names):
            middle = MARGIN + column * step + TILE / 2
            draw.multiline_text((middle, top + label - 6), text, MUTED, small, anchor="md", align="center")
        top += label
        for row in block.rows:
            for column, image in enumerate(row):
                sheet.paste(fit(image.convert("RGB"), TILE), (MARGIN + column * step, top))
            top += step
    if footer:
        draw.text((MARGIN, sheet.height - MARGIN), footer, MUTED, small, anchor="ls")
    return sheet


def font(size: int, bold: bool = False) -> "FreeTypeFont":
    """DejaVu Sans, which matplotlib brings along and which knows Greek."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)


def _wrapped(text: str, face: "FreeTypeFont") -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and face.getlength(longer) > TILE + GAP:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
