"""The demo: the whole job on the embedded model, from a biased base to a measured fair adapter."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...debias.core.error import DDMError
from ...debias.core.io import write_bytes, write_text
from ..models.model import EMBEDDED, Model, load_model
from .imbalance import OCCUPATIONS, draw_unlabelled
from .tiny_people import caption

if TYPE_CHECKING:
    from ...debias.evaluation.report import FairnessReport
    from ...debias.probes.probe import Probe
    from ...debias.probes.records import EvaluationData
    from ..data.group_images import Grouping

EXAMPLES = EMBEDDED.parent
ALPHAS = (0.0, 0.5, 1.0)
SAMPLING_STEPS, GUIDANCE = 20, 3.0
# The image for a person to look at: some of the occupations, the first seeds of each.
SHOWN, SHOWN_SEEDS = OCCUPATIONS[::2], 3
STATE = "demo.json"

Say = Callable[[str], None]


@dataclass
class Demo:
    """The demo's settings, and what it has found so far.

    Args:
        out: the demo's own folder; what an earlier run of the same settings left there is used again.
        per_prompt: images per occupation and α.
        steps: training steps; the trainer's own number if None.
        seed: of the draw, the training and the images.
        device: auto, cpu or cuda.
        base: the model to show it on.
        groups: where groups come from; the trainer's own, label-free way if None.
        say: told what happens, in sentences.

    Attributes:
        seconds: how long each stage took.
    """

    out: Path
    per_prompt: int = 12
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    base: Path = EMBEDDED
    groups: str | None = None
    say: Say = print
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder, self.generated = self.out / "my_images", self.out / "images"
        self.adapter = self.out / "fair.safetensors"
        self.prompts = [caption(role) for role in OCCUPATIONS]
        ours = (self.out / STATE).is_file()
        if self.out.exists() and not ours and (not self.out.is_dir() or any(self.out.iterdir())):
            raise DDMError(
                f"{self.out} holds something else than an earlier demo. Name another folder; it is made.",
                "out",
            )

    def run(self) -> dict[str, Any]:
        """Run every stage.

        Returns:
            The result as JSON: summary, share of men at each α, what the model found, seconds, memory, files.

        Raises:
            DDMError: the folder holds something else, or a stage fails.
        """
        began = time.monotonic()
        with self._stage("setting up"):
            base, probes = self._prepare()
        with self._stage("images before"):
            self._sample(base, ALPHAS[:1], "Sampling before")
            before = men_share(self._look(probes[:1]))[0.0]
            self.say(f"Of {len(self.prompts) * self.per_prompt} images of people at work, {before:.0%} are men.")
        with self._stage("training"):
            found = self._train(base)
            fair = load_model(self.base, self.adapter, device=self.device)
        with self._stage("images after"):
            self.say("Now the same prompts and seeds again, with the adapter at half and at full strength.")
            self._sample(fair, ALPHAS, "Sampling after")
        with self._stage("report"):
            report, shares = self._report(probes)
            self._before_after(shares)
        result = {
            "out": str(self.out),
            "summary": report.summary,
            "men": {f"{alpha:g}": round(share, 4) for alpha, share in shares.items()},
            "found": found,
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "seconds_in_all": round(time.monotonic() - began, 1),
            "peak_memory_gb": peak_memory(),
            "files": {name: str(self.out / name) for name in ("before_after.png", "report.html", self.adapter.name)},
        }
        write_text(self.out / STATE, json.dumps({**self._state(), "result": result}, indent=1))
        return result

    def _prepare(self) -> tuple[Model, "list[Probe]"]:
        """Draw the folder, open base and probes, and throw away what an earlier run of other settings left."""
        from ...debias.probes.probe import Probe
        from ..data.read_folder import read_folder
        from ..loop.checkpoint import checkpoint_path
        from ..loop.settings import TrainSettings
        from ..models.load_base import resolve_device
        from ..objectives.ddm_run import Run

        place = resolve_device(self.device)
        model = load_model(self.base, device=place)
        probes = [
            Probe.load(EXAMPLES / "probes" / f"{name}.safetensors", device=place)
            for name in ("gender", "skin_tone", "role")
        ]
        given = {} if self.steps is None else {"steps": self.steps}
        self.settings = TrainSettings(seed=self.seed, **given)
        self.groups = self.groups or Run.groups
        state = self._state()
        write_text(self.out / STATE, json.dumps(state, indent=1))
        draw_unlabelled(EXAMPLES / "people_emoji", "men", self.folder, self.seed)
        self.images = read_folder(self.folder)
        self.say(
            f"The model {self.base.name} draws people. The folder {self.folder} holds {len(self.images)} images "
            "like those it learnt from, six men to one woman. Captions say what people do; nothing says who is who."
        )
        trained = {"base": model.base.hash, "folder": self.images.fingerprint(), "groups": self.groups}
        trained |= {"settings": self.settings.as_dict()}
        sampled = [self.seed, self.per_prompt]
        if state.get("trained") != trained:
            for path in (self.adapter, checkpoint_path(self.adapter)):
                path.unlink(missing_ok=True)
            state = {}
        if state.get("sampled") != sampled:
            shutil.rmtree(self.generated, ignore_errors=True)
        write_text(self.out / STATE, json.dumps({**state, "trained": trained, "sampled": sampled}, indent=1))
        return model, probes

    def _sample(self, model: Model, alphas: tuple[float, ...], title: str) -> None:
        from ..loop.progress_bars import image_progress
        from ..sampling.image_writer import plan_jobs, write_images

        half = model.base.half_is_native  # as in training
        shots = plan_jobs(self.prompts, self.per_prompt, alphas, [GUIDANCE], self.seed)
        with image_progress(title) as progress:
            write_images(
                model, self.generated, shots, steps=SAMPLING_STEPS, bf16=half, overwrite=True, progress=progress
            )

    def _train(self, model: Model) -> dict[str, Any]:
        """Train the adapter unless it is there; gives what the model found in the folder."""
        from ..data.dataset import folder_set
        from ..loop.progress_bars import image_progress, steps_progress, work_progress
        from ..objectives.ddm_run import Run

        if self.adapter.exists():
            self.say(f"The adapter {self.adapter} is there already, so it is used as it is.")
            return self._state().get("found", {})
        self.say("The model looks at the folder and finds out by itself what is rare in it and what is common.")
        with image_progress("Encoding images") as report:
            images = folder_set(model.base, self.images, report)
        with work_progress() as report:
            run = Run(
                model.base,
                images,
                self.adapter,
                groups=self.groups,
                settings=self.settings,
                checkpoint_every=50,
                report=report,
            )
        found = describe(run.grouping)
        write_text(self.out / STATE, json.dumps({**self._state(), "found": found}, indent=1))
        for part in found["groups"]:
            self.say(f"It sees {', '.join(f'{name} {share:.0%}' for name, share in part.items())}.")
        self.say(
            f"At α = 1 the rarest third of the images counts {found['rare_over_common']:.1f} times as much as the "
            "most common third."
        )
        if run.resume():
            self.say(f"An earlier run stopped at step {run.training.step}; training goes on from there.")
        self.say("From that it trains a fair adapter, a LoRA whose strength is α.")
        with steps_progress("Training") as report, image_progress("Calibrating α") as calibrating:
            run.train(report, calibration_progress=calibrating)
        return found

    def _look(self, probes: "list[Probe]") -> "EvaluationData":
        """Let probes see all images; the first has the target, the last lends its features."""
        from ...debias.groups.target import Target
        from ..evaluation.evaluate_folder import read_records

        targets = [Target.uniform(probes[0].names), *[None] * (len(probes) - 1)]
        return read_records(self.generated, probes, targets, probes[-1])

    def _report(self, probes: "list[Probe]") -> "tuple[FairnessReport, dict[float, float]]":
        from ...debias.evaluation.evaluate import build_report
        from ...debias.rendering.charts import save_png
        from ...debias.rendering.report_html import overview, render_report

        self.say("The probes look at every image, and the report says how sure one can be.")
        records = self._look(probes)
        made = build_report(records, "A fair adapter for tiny_people", random_seed=self.seed)
        write_text(self.out / "report.html", render_report(made))
        write_text(self.out / "report.json", made.to_json(images=False))
        save_png(overview(made), self.out / "report.png")
        return made, men_share(records)

    def _before_after(self, shares: dict[float, float]) -> None:
        """Draw the first seeds of some occupations at α 0 and 1, chosen before anyone has seen them."""
        import io

        from PIL import Image

        from ...debias.rendering.image_grid import Block, draw_comparison
        from ..sampling.image_writer import plan_jobs

        places = {
            (shot.alpha, shot.prompt, number % self.per_prompt): shot.file_name
            for number, shot in enumerate(plan_jobs(self.prompts, self.per_prompt, ALPHAS, [GUIDANCE], self.seed))
        }
        whole = len(self.prompts) * self.per_prompt
        blocks = []
        for alpha, what in ((0.0, "the model as it was"), (1.0, "the same prompts and seeds with the fair adapter")):
            rows = [
                [Image.open(self.generated / places[alpha, caption(role), seed]) for role in SHOWN]
                for seed in range(min(SHOWN_SEEDS, self.per_prompt))
            ]
            blocks.append(Block(f"α = {alpha:g}", f"{what}: men {shares[alpha]:.0%} of {whole} images", rows))
        sheet = draw_comparison(SHOWN, blocks)
        buffer = io.BytesIO()
        sheet.save(buffer, "png", optimize=True)
        write_bytes(self.out / "before_after.png", buffer.getvalue())

    def _state(self) -> dict[str, Any]:
        """What an earlier run noted; empty without one."""
        try:
            state = json.loads((self.out / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began


def describe(grouping: "Grouping") -> dict[str, Any]:
    """Shares of the groups that have names, and how much more the rarest third counts at α = 1."""
    weights = np.sort(grouping.weighting.weights(1.0))
    third = max(1, len(weights) // 3)
    named = [part for part in grouping.groups if part.source != "discovered"]
    return {
        "source": grouping.source,
        "groups": [dict(zip(part.names, part.shares.round(4).tolist(), strict=True)) for part in named],
        "rare_over_common": round(float(weights[-third:].mean() / weights[:third].mean()), 2),
    }


def men_share(records: "EvaluationData") -> dict[float, float]:
    """Share of the first class at each α, as the report counts it: averaged over prompts, undetermined ones aside."""
    from ...debias.evaluation import intervals, metrics

    attribute = records.attributes[0]
    size = (len(records.conditions), len(records.prompts))
    counts = intervals.tabulate(attribute.onehot(), records.condition, records.prompt, *size)
    return {
        one.alpha: float(metrics.mean_over_prompts(metrics.shares(own))[0])
        for one, own in zip(records.conditions, counts, strict=True)
    }


def peak_memory() -> float | None:
    """The most memory that this process has held, in GB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e9 if sys.platform == "darwin" else 1e6 / 1.024), 2)
