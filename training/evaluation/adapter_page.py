"""The page of an adapter: a model card in Hugging Face's layout, beside the file and all from its metadata."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...debias.adapter.lora_file import AdapterCard
from ...debias.core.io import read_metadata, write_text

# What tells our pages from those that somebody else wrote.
MARK = "ddm: this page is written anew when the adapter is trained or measured; delete this line to keep yours"
TEMPLATES = Path(__file__).parent / "templates"
NO_SETTINGS = ("images", "fingerprint", "found", "calibration", "prompts", "last_look")


def page_path(adapter: Path) -> Path:
    """Where the page of an adapter lies. A folder may hold many adapters, so it has the adapter's name."""
    return adapter.with_suffix(".md")


def write_page(adapter: Path) -> bool:
    """Write the page of an adapter from its card; tells whether it was: a page that is not ours stays as it is.

    Raises:
        DDMError: the adapter cannot be read, or the page not be written.
    """
    page, card = page_path(adapter), AdapterCard.from_metadata(read_metadata(adapter))
    if card is None or (page.exists() and MARK not in page.read_text(encoding="utf-8", errors="replace")):
        return False
    write_text(page, render(card, adapter.name))
    return True


def render(card: AdapterCard, file: str) -> str:
    """The page in Markdown, of an adapter file of that name."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: _plain(value) if isinstance(value, str) else value,
    )
    text = environment.get_template("adapter.md.j2").render(
        card=card,
        file=file,
        stem=Path(file).stem,
        architecture=card.architecture.removesuffix("/lora"),
        found=[{"source": part["source"], "rows": list(_rows(part, card))} for part in card.training.get("found", ())],
        settings=list(_settings(card.training)),
        mark=MARK,
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _rows(part: dict[str, Any], card: AdapterCard) -> Iterator[dict[str, Any]]:
    for name, share in part["shares"].items():
        yield {"name": name, "share": share, "target": (card.target or {}).get(name)}


def _settings(training: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(training.items()):
        if name not in NO_SETTINGS and value is not None:
            yield name.replace("_", " "), value
    if training.get("calibration"):
        yield "scale found by calibration", f"{training['calibration']['scale']:.2f}"
    if on := (training.get("calibration") or {}).get("on"):
        yield "α = 1 holds for", f"{on['model']}, {on['steps']} steps, guidance {on['cfg']:g}"
    if look := training.get("last_look"):
        yield "FD by prompt in a last look, without and with it", f"{look['before']:.2f}, {look['after']:.2f}"


def _plain(text: str) -> str:
    """A user's words as words: no markup, no cell of a table, one line."""
    return re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;").replace("`", "'")
