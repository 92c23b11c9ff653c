"""What every command needs: the application, progress bars, and how a result is printed."""

import json
from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

app = App(
    name="saot",
    help="Carry dense labels from pictures that have them to pictures that do not, by optimal transport.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,
    version_flags=["--version"],
)
console = Console(stderr=True)
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as one JSON object.")]


class Bars:
    """A progress bar a stage, with the time left; nothing where nobody is looking."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> "Bars":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        if stage not in self.tasks:
            self.tasks[stage] = self.bar.add_task(stage, total=total)
        self.bar.update(self.tasks[stage], completed=done, total=total)

    def stage(self, name: str) -> Callable[[int, int], None]:
        """The callback of one stage."""
        return lambda done, total: self(name, done, total)


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value))
