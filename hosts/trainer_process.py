"""The trainer in a process of its own, as hosts start it: what it is told, what it says, and how it is stopped."""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from ..debias.adapter.lora_file import AdapterCard
from ..debias.core.error import DDMError
from ..debias.core.io import read_metadata
from ..training.commands.parent_process import CUT_OFF, GRACE, STOPPED
from .wording import as_inputs

COMMAND = Path(__file__).resolve().parent.parent / "training" / "__main__.py"
DEVICES = ("cpu", "cuda", "mps")
# Seconds between two looks for a cancel.
TICK = 0.02
# Seconds that a stopped trainer has to end, longer than it gives itself; and those that its last words may take.
PATIENCE, LISTEN = GRACE + 10, 30
SAID = "ddm: "


class Trainer:
    """`ddm train` as a child that ends with us: it stops when its standard input is closed.

    As a context it is always ended: told to stop first, so that it keeps its state, and killed if it does not.
    """

    def __init__(self, arguments: Sequence[str]):
        self.process = subprocess.Popen(
            [sys.executable, str(COMMAND), "train", *arguments, "--progress=json", "--stdin-stops"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONUTF8": "1"},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self.lines: Queue[str | None] = Queue()
        self.errors: deque[str] = deque(maxlen=200)
        self.threads = [Thread(target=one, daemon=True) for one in (self._read_lines, self._read_errors)]
        for thread in self.threads:
            thread.start()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def events(self) -> Iterator[dict[str, Any] | None]:
        """What it says, as `JSONReporter` writes it, until it is done; None every fiftieth of a second without any.

        Raises:
            DDMError: it failed; with its own sentence.
        """
        while True:
            try:
                line = self.lines.get(timeout=TICK)
            except Empty:
                yield None
                continue
            if line is None:
                break
            try:
                yield json.loads(line)
            except ValueError:  # a package that it uses has printed something
                continue
        code = self.process.wait()
        if code:
            self.threads[1].join(LISTEN)
            raise DDMError(sentence("".join(self.errors), code))

    @property
    def kept(self) -> bool:
        """Whether it ended in time to keep all that it had trained; to ask once it has ended."""
        return self.process.returncode in (0, STOPPED)

    def stop(self) -> None:
        """End it. It keeps what it has trained (see `kept`), unless it takes too long."""
        if not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for thread in self.threads:
            thread.join(LISTEN)

    def _read_lines(self) -> None:
        with self.process.stdout as lines:
            for line in lines:
                self.lines.put(line)
        self.lines.put(None)

    def _read_errors(self) -> None:
        with self.process.stderr as lines:
            self.errors.extend(lines)


def train_arguments(
    images: Path,
    base: Path,
    out: Path,
    *,
    checkpoint: Path,
    previews: Path,
    device: str,
    groups: str,
    target: str,
    caption: str,
    style: bool,
    steps: int,
    rank: int,
    calibrate: int,
    seed: int,
    overwrite: bool,
    tokenizer: Path | None = None,
    options: Sequence[str] = (),
) -> list[str]:
    """The command line of a run. It goes on where one of the same name was stopped.

    Args:
        images: the folder to learn from.
        base: the model, as a folder or a checkpoint.
        out: the adapter file; a style goes beside it.
        checkpoint: where a stopped run is kept.
        previews: a folder for images that are made while it trains.
        device: the host's; another one than cpu, cuda or mps leaves the choice to the trainer.
        overwrite: replace an adapter of this name, and a stopped run with other settings.
        tokenizer: see `find_tokenizer`.
        options: more of `ddm train`'s, as `more_options` writes them.

    The other arguments are as those of `ddm train`.
    """
    arguments = [
        str(images),
        f"--base={base}",
        f"--out={out}",
        f"--groups={groups.strip()}",
        f"--target={target.strip() or 'uniform'}",
        f"--steps={steps}",
        f"--rank={rank}",
        f"--calibrate={calibrate}",
        f"--seed={seed}",
        f"--checkpoint={checkpoint}",
        f"--sample-dir={previews}",
        f"--device={device if device in DEVICES else 'auto'}",
        "--overwrite" if overwrite else "--no-overwrite",
    ]
    arguments += [f"--caption={caption.strip()}"] if caption.strip() else []
    arguments += [f"--style={out.with_stem(out.stem + '_style')}"] if style else []
    arguments += [f"--tokenizer={tokenizer}"] if tokenizer else []
    arguments += options
    return arguments + (["--resume", *(["--restart"] if overwrite else [])] if checkpoint.exists() else [])


def more_options(
    *,
    trigger: str = "",
    shuffle_caption: bool = False,
    flip: bool = False,
    buckets: bool = True,
    text_encoder: bool = False,
    by_prompt: int = 0,
    learning_rate: float = 0.0,
    resolution: int = 0,
    batch_size: int = 32,
    gradient_accumulation_steps: int = 1,
    gradient_checkpointing: bool = False,
    reg_data: Path | None = None,
    prior_prompts: str = "",
    prior_count: int = 24,
    probes: Sequence[Path] = (),
    clip: Path | None = None,
    measure: int = 16,
) -> list[str]:
    """Options of `ddm train` besides those of `train_arguments`, by the names that hosts' pages give them.

    0, nothing and False leave a choice to the trainer.

    Args:
        prior_prompts: prompts with semicolons between them; never a file, since a page's text shall name none.
        clip: the folder of the CLIP model that the probes read.
    """
    options = [
        "--buckets" if buckets else "--no-buckets",
        f"--batch-size={batch_size}",
        f"--gradient-accumulation-steps={gradient_accumulation_steps}",
    ]
    switches = {
        "--shuffle-caption": shuffle_caption,
        "--flip": flip,
        "--text-encoder": text_encoder,
        "--gradient-checkpointing": gradient_checkpointing,
    }
    options += [name for name, wanted in switches.items() if wanted]
    values = {
        "--trigger": trigger.strip(),
        "--by-prompt": by_prompt,
        "--learning-rate": learning_rate,
        "--resolution": resolution,
        "--reg-data": reg_data,
        "--clip": clip,
    }
    options += [f"{name}={value}" for name, value in values.items() if value]
    if prior_prompts.strip():
        # The semicolon at the end makes it a list of prompts, whatever files there are.
        options += [f"--prior-prompts={prior_prompts.strip()};", f"--prior-count={prior_count}"]
    if probes:
        options += [*(f"--probe={path}" for path in probes), f"--measure={measure}"]
    return options


def check_same(out: Path, groups: str | None, settings: Mapping[str, int | None]) -> None:
    """Refuse to write to a file that obviously is of another run; the trainer itself compares everything.

    Raises:
        DDMError: it is, or is no adapter of ours.
    """
    card = AdapterCard.from_metadata(read_metadata(out))
    known = {"groups": card.groups, **card.training} if card else {}
    wanted = {"groups": groups, **settings}
    if card is None or any(value is not None and known.get(key) != value for key, value in wanted.items()):
        what = "was not made by ComfyUI-DDM" if card is None else "was trained with other settings"
        raise DDMError(
            f"There is an adapter called {out.name} already, and it {what}. Choose another name, or switch overwrite "
            "on."
        )


def sentence(errors: str, code: int) -> str:
    """What a user should read of a trainer that ended with an exit code other than 0, by what it wrote to stderr."""
    _, said, text = errors.rpartition(SAID)
    if said and code == 2:
        return as_inputs(text.strip())
    if code == STOPPED:
        return "The trainer was stopped from outside. What it has trained is kept: start it again to go on."
    last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "")
    if code in (-9, CUT_OFF) or "out of memory" in last.lower() or "OutOfMemory" in last:
        return (
            "The memory ran out while training. Close other programs, or choose a smaller model; what was trained up "
            f"to the last checkpoint is kept. {last}".strip()
        )
    return f"The trainer ended unexpectedly (exit code {code}): {last or 'it said nothing'}"
