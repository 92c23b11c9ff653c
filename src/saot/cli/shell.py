"""What every command needs: the application, progress bars, and how a result is printed."""

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from cyclopts import App, Parameter, Token
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

app = App(
    name="saot",
    help="Carry dense labels from pictures that have them to pictures that do not, by optimal transport.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,
    version_flags=["--version"],
)
console = Console(stderr=True)


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """The whole number of an option; a fraction is refused, where int() of the parser rounds it."""
    try:
        return int(tokens[0].value)
    except ValueError as error:
        raise ValueError(f"expected a whole number, such as 3; got {tokens[0].value!r}") from error


Whole = Annotated[int, Parameter(converter=_whole)]
MaybeWhole = Annotated[int | None, Parameter(converter=_whole)]
Words = Annotated[list[str] | None, Parameter(negative=())]  # given as often as needed
Flag = Annotated[bool, Parameter(negative="")]
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

    def say(self, sentence: str) -> None:
        """A sentence above the bars, on standard error."""
        console.print(f"[yellow]note:[/] {escape(sentence)}", soft_wrap=True)

    def stage(self, name: str) -> Callable[[int, int], None]:
        """The callback of one stage."""
        return lambda done, total: self(name, done, total)


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value))
