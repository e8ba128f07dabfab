"""What a case found: figures with their targets, as JSON, as a table on the screen and as Markdown."""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..debias.core.io import write_text

DIGITS = {"": 3, "s": 0, "MiB": 1, "GB": 2, "images/s": 2, "×": 2}


@dataclass(frozen=True)
class Figure:
    """One number, with what it should be.

    Attributes:
        name: what was measured.
        value: the number; a yes or no for what is exact or is not.
        at_least, at_most: the target; None where there is none on that side.
        interval: 95% interval, where the number is a share of sampled images.
        unit: a key of `DIGITS`; "" for shares and distances.
    """

    name: str
    value: float | bool
    at_least: float | None = None
    at_most: float | None = None
    interval: tuple[float, float] | None = None
    unit: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.at_least is None and self.at_most is None:
            return None
        low = -float("inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return bool(low <= self.value <= high)  # of a number of numpy too

    @property
    def sure(self) -> bool:
        """Whether the whole interval meets the target; of a number without one, whether the number does."""
        return all(replace(self, value=end).met for end in self.interval or (self.value,))

    @property
    def shown(self) -> str:
        """The number and its interval in words."""
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        if self.interval is None:
            return self.number
        return f"{self.number} ({self._number(self.interval[0])}–{self._number(self.interval[1])})"

    @property
    def number(self) -> str:
        """The number in words, with its unit."""
        return f"{self._number(self.value)}{f' {self.unit}' if self.unit else ''}"

    @property
    def target(self) -> str:
        """The target in words."""
        if isinstance(self.value, bool):
            return "yes" if self.met is not None else ""
        if self.at_least is not None and self.at_most is not None:
            return f"{self._number(self.at_least)} to {self._number(self.at_most)}"
        if self.at_least is not None:
            return f"≥ {self._number(self.at_least)}"
        return "" if self.at_most is None else f"≤ {self._number(self.at_most)}"

    @property
    def verdict(self) -> str:
        """“met”, “not met”, or nothing."""
        return {True: "met", False: "not met", None: ""}[self.met]

    def _number(self, value: float) -> str:
        digits = DIGITS[self.unit] + (self.unit == "s" and value < 5)  # a second more or less says much of few
        text = f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no -.000
        return text.replace("0.", ".", 1) if not self.unit and text.lstrip("-").startswith("0.") else text


@dataclass(frozen=True)
class Result:
    """A finished case.

    Attributes:
        case, title: its name and what it is about.
        command: what makes it again.
        figures: what it found.
        seconds: what this run took; samples and adapters that were there already took nothing.
        settings: what the figures depend on.
        machine: see `machine`.
        finished: date and time, UTC.
    """

    case: str
    title: str
    command: str
    figures: Sequence[Figure]
    seconds: float
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    finished: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M", time.gmtime()))

    def figure(self, name: str) -> Figure:
        """The figure of this name, which there is."""
        return next(figure for figure in self.figures if figure.name == name)

    def save(self, folder: Path) -> None:
        """Write `<case>.json` atomically."""
        figures = [asdict(figure) | {"met": figure.met} for figure in self.figures]
        text = json.dumps({**vars(self), "figures": figures}, ensure_ascii=False, indent=1)
        write_text(folder / f"{self.case}.json", text + "\n")

    @classmethod
    def load(cls, path: Path) -> "Result":
        """Read what `save` wrote."""
        given = json.loads(path.read_text("utf-8"))
        rows = [{name: value for name, value in row.items() if name != "met"} for row in given.pop("figures")]
        pairs = [row | {"interval": row["interval"] and tuple(row["interval"])} for row in rows]
        return cls(figures=[Figure(**row) for row in pairs], **given)


def command(name: str, script: str) -> str:
    """The command that makes one case again, with the options that were given to this one."""
    words, kept = iter(sys.argv[1:]), []
    for word in words:
        if word.startswith("--") and word not in ("--again", "--table"):
            kept += [word] if "=" in word else [word, next(words)]
    return shlex.join(["python", f"benchmarks/{script}", name, *kept])


def machine(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Name graphics card, processor, cores, threads, memory, system, Python and torch, and how busy the machine is."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": cores(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name(device)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 1)
    return found


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def print_table(results: Sequence[Result]) -> None:
    """Print every figure with its target."""
    from rich.console import Console
    from rich.table import Table

    table = Table("case", "figure", "value", "target", "")
    for result in results:
        for number, figure in enumerate(result.figures):
            colour = {True: "green", False: "red", None: ""}[figure.met]
            case = result.case if number == 0 else ""
            table.add_row(case, figure.name, figure.shown, figure.target, figure.verdict, style=colour)
        table.add_section()
    Console().print(table)


def write_markdown(results: Sequence[Result], folder: Path, missing: Mapping[str, str] | None = None) -> None:
    """Write README.md: every figure with its target, the command and the machine.

    Args:
        missing: what was not measured, by name, and why.
    """
    machines = list(dict.fromkeys(named_machine(result.machine) for result in results))
    judged = [figure.met for result in results for figure in result.figures if figure.met is not None]
    lines = [
        "# What was measured",
        "",
        "Written by `python benchmarks/claims.py --table` from the JSON files beside it; they hold the settings too.",
        f"{sum(judged)} of {len(judged)} targets are met. Shares are of images that the base or an adapter made, as",
        "a probe sees them, with Wilson 95% intervals.",
        "",
        "| case | figure | value | target | | command | machine |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        place = f"{chr(65 + machines.index(named_machine(result.machine)))}"
        for figure in result.figures:
            verdict = f"**{figure.verdict}**" if figure.met is False else figure.verdict
            cells = (result.case, figure.name, figure.shown, figure.target, verdict, f"`{result.command}`", place)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "Machines:", ""]
    lines += [f"- {chr(65 + number)}: {name}" for number, name in enumerate(machines)]
    lines += ["", "Cases:", ""]
    lines += [
        f"- `{result.case}`: {result.title} ({result.seconds:,.0f} s, {result.finished} UTC, "
        f"{result.settings['per_prompt']} images per prompt, bfloat16: {'yes' if result.settings['bf16'] else 'no'})"
        for result in results
    ]
    if missing:
        lines += ["", "Not measured, and not counted above:", ""]
        lines += [f"- `{name}`: {why}" for name, why in missing.items()]
    write_text(folder / "README.md", "\n".join(lines) + "\n")


def named_machine(one: Mapping[str, Any]) -> str:
    """What `machine` found, in words."""
    memory = f", {one['memory_gib']} GiB" if "memory_gib" in one else ""
    graphics = f"{one['gpu']}, " if "gpu" in one else ""
    return (
        f"{graphics}{one['cpu']}, {one['cores']} cores ({one['threads']} threads used){memory}, {one['system']}, "
        f"Python {one['python']}, torch {one['torch']}"
    )
