"""JSON from files that anybody may have written, and JSON for pages: the same rules at both doors.

Numbers are finite, nesting and length are limited, text is valid Unicode. What a file says wrongly is a sentence, never
another exception; what goes to a page can always be read there, since browsers refuse NaN.
"""

import json
import math
import os
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from .error import DDMError, printable
from .io import read_text

DEPTH = 32
CHARACTERS = 64 << 20


def read_json(text: str, what: str, depth: int = DEPTH, longest: int = CHARACTERS) -> Any:
    """The value of a JSON text.

    Args:
        what: names the text at the beginning of a sentence.

    Raises:
        DDMError: it is no JSON, has a number that is not finite, is nested more than `depth` deep, or is longer than
            `longest` characters.
    """
    if len(text) > longest:
        raise DDMError(f"{what} has {len(text):,} characters, and no more than {longest:,} are read.")
    try:
        value = json.loads(text, parse_constant=_no_number)
        _check(value, depth)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DDMError(f"{what} cannot be read as JSON ({reason}).") from error
    return value


def read_json_file(path: str | os.PathLike) -> Any:
    """The value of a JSON file; errors as in `read_text` and `read_json`."""
    return read_json(read_text(path), str(path))


def read_fields(metadata: Mapping[str, str], types: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The values of those `ddm.*` entries of a file's metadata that `types` names; others are ignored.

    Args:
        types: an annotation for each name, such as `str`, `float`, `list[str]`, `dict[str, float] | None` or a
            TypedDict, which may have other keys besides.
        what: names the file at the beginning of a sentence.

    Raises:
        DDMError: a value that is no JSON, or of another type.
    """
    values = {}
    for name, wanted in types.items():
        if f"ddm.{name}" in metadata:
            values[name] = read_json(metadata[f"ddm.{name}"], f"{what}: ddm.{name}")
            if not fits(values[name], wanted):
                raise DDMError(f"{what}: ddm.{name} is not what it should be ({printable(repr(values[name]), 80)}).")
    return values


def fits(value: Any, wanted: Any) -> bool:
    """Whether a JSON value is of an annotation; a whole number is a float too, true and false are no numbers."""
    origin, parts = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if wanted is None or wanted is NoneType:
        return value is None
    if origin is list:
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, parts[1]) for item in value.values())
    if is_typeddict(wanted):
        kinds = get_type_hints(wanted).items()
        whole = isinstance(value, dict) and wanted.__required_keys__ <= value.keys()
        return whole and all(fits(value[name], kind) for name, kind in kinds if name in value)
    if wanted in (int, float):
        # Whole numbers as Python has them do not fit into every tensor, nor into a float.
        return isinstance(value, (int, wanted)) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, wanted)


def for_page(value: Any) -> Any:
    """A value as a page can show it: numbers that are not finite are None, text is printable, paths are text."""
    if isinstance(value, Mapping):
        return {printable(key): for_page(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [for_page(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return printable(os.fspath(value)) if isinstance(value, os.PathLike) else value


def write_json(value: Any, **options: Any) -> str:
    """JSON text of a value for a file, a page or another program; see `for_page`."""
    return json.dumps(for_page(value), ensure_ascii=False, allow_nan=False, **options)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no finite number")


def _check(value: Any, depth: int) -> None:
    """Refuse what is nested too deeply, a number out of range (1e999 is infinite) and half a character."""
    if isinstance(value, (list, dict)):
        if depth == 0:
            raise RecursionError
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, depth - 1)
        for key in value if isinstance(value, dict) else ():
            key.encode("utf-8")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is too large")
    elif isinstance(value, str):
        value.encode("utf-8")
