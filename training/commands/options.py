"""Options that several commands have, each said once: what it is called there, and what its help says."""

from enum import Enum
from pathlib import Path
from typing import Annotated

from typer import Option


class Progress(str, Enum):
    """How progress is shown."""

    BARS = "bars"
    JSON = "json"


BaseOption = Annotated[
    Path | None,
    Option(
        metavar="FILE|DIR",
        help="Base model: a checkpoint (.safetensors) or a diffusers folder; without one, the embedded model.",
    ),
]
TokenizerOption = Annotated[
    Path | None,
    Option(metavar="DIR", help="CLIP's tokenizer for a checkpoint; found in ComfyUI if none is given."),
]
PredictionOption = Annotated[
    str | None,
    Option(metavar="epsilon|v_prediction", help="What the base predicts, where its file does not say."),
]
VAEOption = Annotated[Path | None, Option("--vae", metavar="FILE|DIR", help="A VAE in place of the base's own.")]
CaptionOption = Annotated[str | None, Option(help="Caption of images that have none.")]
SelfOption = Annotated[
    str | None,
    Option(
        "--prior-prompts",
        metavar="TEXT|FILE",
        help="Use the base's own images of these prompts ('a;b', or a file), together with a FOLDER if given.",
    ),
]
SelfCountOption = Annotated[int, Option(min=1, help="Images of each --prior-prompts prompt.")]
SaveEveryOption = Annotated[int, Option(min=1, help="Steps between checkpoints.")]
ResumeOption = Annotated[bool, Option(help="Go on where a stopped run of the same name was.")]
PreviewsOption = Annotated[
    Path | None,
    Option(metavar="DIR", help="While training, make images at α = 0 and 1 with the same seeds, in here."),
]
PreviewEveryOption = Annotated[
    int | None, Option(min=1, help="Steps between two previews; a fifth of all if not given.")
]
ProgressOption = Annotated[Progress, Option(help="Bars on stderr, or JSON lines on stdout for another program.")]
StdinStopsOption = Annotated[bool, Option("--stdin-stops", help="Stop as at Ctrl-C when standard input is closed.")]
ClipOption = Annotated[
    Path | None, Option(metavar="DIR", help="The CLIP model that a probe was made with (`ddm probe --clip`).")
]
DeviceOption = Annotated[str, Option(help="auto, cpu or cuda.")]
