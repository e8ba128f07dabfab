"""What a host's page shows of a training: its state as plain values, kept up to date by the trainer's events."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..debias.core.error import named
from ..training.commands.reporters import TITLES
from .train_inputs import input_name

# What a page says of each phase.
DOING = TITLES | {
    "starting": "Starting the trainer",
    "training": "Training",
    "done": "Done",
    "stopped": "Stopped",
}

# Points of the loss curve at the most; beyond, every second one is dropped.
POINTS = 240


class TrainPanel:
    """The panel of one run.

    Args:
        title: name of what is trained.
        reference: how the host's /view finds a preview file.
        names: inputs of the page that are not called like the option.

    Attributes:
        values: the panel, JSON-able: `phase` is one of `DOING`, and `doing` what that says of it.
        preview: the last preview file.
    """

    def __init__(self, title: str, reference: Callable[[Path], dict[str, str]], names: Mapping[str, str] | None = None):
        self.reference, self.names = reference, names or {}
        self.preview: Path | None = None
        self.values: dict[str, Any] = {
            "kind": "train",
            "title": title,
            "done": 0,
            "total": 0,
            "seconds_left": None,
            "losses": [],
            "ess": None,
            "attributes": [],
            "preview": None,
            "remarks": [],
            "files": {},
        }
        self._enter("starting")

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in an event of the trainer (see `JSONReporter`)."""
        values = self.values
        if "phase" in event:
            self._enter(event["phase"])
            values |= {name: event[name] for name in ("done", "total", "seconds_left")}
            if event.get("loss") is not None:
                values["losses"].append([event["done"], round(event["loss"], 5)])
                if len(values["losses"]) > POINTS:
                    del values["losses"][-2:0:-2]
                values["ess"] = event.get("ess")
        elif "preview" in event:
            self.preview = Path(event["preview"])
            values["preview"] = {"step": event["step"], "file": self.reference(self.preview)}
        elif "groups" in event:
            values["attributes"] = event["groups"]
        elif "note" in event:
            values["remarks"].append(self.said(event["note"], event.get("options", ())))

    def snapshot(self) -> dict[str, Any]:
        """The panel as it is now; it is written later, by another thread."""
        return {**self.values, "losses": list(self.values["losses"]), "remarks": list(self.values["remarks"])}

    def stop(self, kept: bool) -> str:
        """The run was cancelled; returns what to say of it.

        Args:
            kept: whether the trainer ended in time to keep all that it had trained.
        """
        said = "Stopped before any training."
        if self.values["phase"] in ("training", "prompts", "calibration"):
            said = "Stopped. What was trained is kept: start it again to go on, with more steps if you like."
            if not kept:
                said = (
                    "The trainer did not stop in time and was ended. The last minutes of the training are lost: start "
                    "it again with the same inputs to go on from what it had kept before."
                )
        elif self.values["phase"] in ("sampling", "looking"):
            said = "Stopped while measuring. The adapter is finished; start again with the same inputs to measure it."
        self._end("stopped", said)
        return said

    def busy(self) -> str:
        """What to say to somebody who has to wait for the end of the training."""
        values = self.values
        so_far = f" ({values['doing'].lower()}, {values['done']} of {values['total']})" if values["total"] else ""
        return f"DDM is training {values['title']}{so_far}"

    def said(self, sentence: str, options: Sequence[str]) -> str:
        """A sentence of the trainer with the inputs that it is about."""
        return named(sentence, options, partial(input_name, self.names))

    def fail(self, error: Exception) -> str:
        """The run ended for this reason; returns what is said of it."""
        sentence = self.said(str(error), getattr(error, "options", ()))
        self._end("stopped", sentence)
        return sentence

    def finish(self, card: Mapping[str, Any] | None, summary: str) -> None:
        """What was trained is there; an adapter has a card."""
        self.values["card"] = None if card is None else dict(card)
        self._end("done", summary)

    def _end(self, phase: str, summary: str) -> None:
        self._enter(phase)
        self.values |= {"seconds_left": None, "summary": summary}

    def _enter(self, phase: str) -> None:
        self.values |= {"phase": phase, "doing": DOING[phase]}
