"""Eleven adapters that are made to do harm, to lie beside a good one in a real host."""

import json
from collections.abc import Callable
from pathlib import Path

from comfyui_ddm.debias.core.io import load_tensors, save_tensors

NESTED = "[" * 20_000 + "]" * 20_000


def _says(**values: str) -> Callable[[Path, Path], None]:
    """The good file with other JSON texts in its card."""

    def write(good: Path, path: Path) -> None:
        tensors, metadata = load_tensors(good)
        save_tensors(path, tensors, metadata | {f"ddm.{name}": value for name, value in values.items()})

    return write


def _bytes(made: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    return lambda good, path: path.write_bytes(made(good.read_bytes()))


POINT = '{"alpha": 0, "images": 1, "shares": [1], "fd": NaN, "fd_high": null, "floor_high": null}'
MEASURED = '{"attribute": "a", "classes": ["a"], "prompts": 1, "steps": 1, "cfg": 1, "recommended_alpha": 1, "points": '
HOSTILE: dict[str, Callable[[Path, Path], None]] = {
    "not a number": _says(measured=f"{MEASURED}[{POINT}]}}"),
    "an infinite version": _says(format_version="Infinity"),
    "a version of 400 digits": _says(format_version="9" * 400),
    "nested deeply": _says(training=NESTED, concepts=NESTED),
    "other types": _says(concepts='{"a": 1}', target="[]", recommended_alpha='"much"', alpha_max="{}", predicted="7"),
    "half a character": _says(groups='"\\ud800"', concepts='["\\udce9"]'),
    "a page": _says(groups=json.dumps("<img src=x onerror=alert(1)>"), concepts='["<script>alert(1)</script>"]'),
    "control characters": _says(groups=json.dumps("\x1b[31m\u202e\x00"), concepts='["a\\u0000b"]'),
    "no JSON": _says(measured="{", predicted="nothing", target="", groups="'"),
    "cut off": _bytes(lambda data: data[: len(data) // 2]),
    "a header of 2**60 bytes": _bytes(lambda data: (2**60).to_bytes(8, "little") + data[8:]),
}


def write_hostile(good: Path, folder: Path) -> list[str]:
    """Write all of them into a folder; returns their names without the ending."""
    for name, write in HOSTILE.items():
        write(good, folder / f"{name}.safetensors")
    return list(HOSTILE)
