"""Progress bars on stderr, so that stdout stays free for results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def image_progress(title: str) -> Iterator[Callable[[float, int], None]]:
    """A bar with the images done and the time left; yields a function to call with (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=1)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def steps_progress(title: str) -> Iterator[Callable[..., None]]:
    """A bar for training; yields a function to call with (step, steps, loss, ess=None, learning_rate=None)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.completed:.0f} of {task.total:.0f}"),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=1, figures="")

        def report(
            step: int, steps: int, loss: float, ess: float | None = None, learning_rate: float | None = None
        ) -> None:
            figures = f"loss {loss:.4f}" + ("" if ess is None else f"  ESS {ess:.0%}")
            bar.update(task, completed=step, total=steps, figures=figures)

        yield report


@contextmanager
def work_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each kind of work as it begins; yields a function to call with (what, done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report
