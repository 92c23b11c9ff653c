"""What every command needs: the application, progress bars, and how a result is printed."""

import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter, Token
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from saot.cli.forecast import Forecast

if TYPE_CHECKING:
    from saot.label import ExpectedStage

app = App(
    name="saot",
    help="Carry dense labels from pictures that have them to pictures that do not, by optimal transport.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,
    version_flags=[],
)
console = Console(stderr=True)
SOME_FAILED = 1  # exit code where some of many things could not be done


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


def say(sentence: str) -> None:
    """A sentence that the user should know, on standard error."""
    console.print(f"[yellow]note:[/] {escape(sentence)}", emoji=False, soft_wrap=True)


class Bars:
    """What is done and how long the rest takes: bars on a terminal, else one plain line a stage and a minute.

    SAOT_PROGRESS=0 in the environment silences it.

    Args:
        forecast: Knows the time left.
    """

    def __init__(self, forecast: Forecast | None = None) -> None:
        self.forecast = forecast or Forecast()
        self.quiet = os.environ.get("SAOT_PROGRESS") == "0"
        self.plain = not console.is_terminal
        self.bar = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            console=console,
        )
        self.tasks: dict[str, Any] = {}
        self._stages: dict[str, tuple[int, int]] = {}  # of which something was told
        self._lock = threading.RLock()  # stages may be told from several threads
        self._stop = threading.Event()

    def __enter__(self) -> "Bars":
        if self.plain and not self.quiet:
            threading.Thread(target=self._every_minute, daemon=True).start()
        elif not self.quiet:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if not self.plain and not self.quiet:
            self.bar.stop()

    def expect(self, stages: Sequence["ExpectedStage"]) -> None:
        """Hear of the stages to come, to tell how long the whole run takes."""
        self.forecast.expect(stages)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        if self.quiet:
            return
        with self._lock:
            self.forecast.hear(stage, done, total)
            ended = done == total and self._stages.get(stage) != (done, total)
            self._stages[stage] = (done, total)
            if self.plain:
                if ended:
                    self._line(stage, f"{done}/{total} done")
                return
            left = words_of(self.forecast.stage_left(stage))
            if stage not in self.tasks:
                self.tasks[stage] = self.bar.add_task(stage, total=total, left=left)
            self.bar.update(self.tasks[stage], completed=done, total=total, left=left)
            whole = self.forecast.whole_left()
            if whole is not None and len(self._stages) > 1:
                self.bar.update(self.tasks[stage], left=f"{left}, of the whole run {words_of(whole)}")

    def minute(self) -> None:
        """One line for each stage that is under way."""
        with self._lock:
            under_way = {stage: (done, total) for stage, (done, total) in self._stages.items() if done < total}
            for stage, (done, total) in under_way.items():
                left = words_of(self.forecast.stage_left(stage))
                self._line(stage, f"{done}/{total}, {100 * done // total} %, {left} left")
            if not under_way:
                self._line("saot", "working")

    def say(self, sentence: str) -> None:
        """A sentence above the bars, on standard error."""
        say(sentence)

    def stage(self, name: str) -> Callable[[int, int], None]:
        """The callback of one stage."""
        return lambda done, total: self(name, done, total)

    def _every_minute(self) -> None:
        while not self._stop.wait(MINUTE):
            self.minute()

    def _line(self, stage: str, what: str) -> None:
        whole = self.forecast.whole_left()
        rest = "" if whole is None else f"; whole run: {words_of(whole)} left"
        print(f"{stage}: {what}{rest}", file=sys.stderr, flush=True)


MINUTE = 60.0  # seconds between lines where nobody watches


def words_of(seconds: float | None) -> str:
    """A time that is not known exactly.

    Example:
        >>> [words_of(time) for time in (None, 4.2, 70.0, 5000.0, 200000.0)]
        ['?', '4 s', '1 min', '1 h 23 min', '2 d 7 h']
    """
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value), flush=True)


def use_workers(count: int | None) -> None:
    """Work with so many threads from now on; None leaves it at one a core.

    Raises:
        ValueError: If it is less than one.
    """
    if count is None:
        return
    if count < 1:
        raise ValueError(f"expected --workers of at least 1; got {count}")
    import torch

    torch.set_num_threads(count)


@app.command(name="--version")
def version(*, json: Json = False) -> None:
    """The version of this package, of Python and of torch, and the device that `--device auto` takes."""
    import platform

    from saot.runs import commit_of_code, versions

    found = versions(["saot", "torch"])
    said = {"saot": found["saot"], "commit": commit_of_code(), "python": platform.python_version()}
    try:
        import torch

        from saot.runs import device_name, resolve_device

        device = resolve_device()
        said |= {"torch": torch.__version__, "device": device, "device_name": device_name(torch.device(device))}
    except (ImportError, OSError, ValueError) as error:  # a broken torch is what one asks the version for
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        said |= {"torch": found["torch"], "device": None, "device_name": reason}
    if json:
        print_json(said)
        return
    commit = "" if str(said["commit"]).startswith("saot") else f" ({said['commit']})"
    print(
        f"saot {said['saot']}{commit}, Python {said['python']}, torch {said['torch']}, device {said['device']}", end=""
    )
    print(f" ({said['device_name']})")


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], /, *, json: Json = False) -> None:
    """What a shell needs to complete commands and options with Tab, on standard output.

    Example: `saot completion bash > ~/.local/share/bash-completion/completions/saot`

    For zsh: `saot completion zsh > DIR/_saot`, DIR one of $fpath; for fish:
    `saot completion fish > ~/.config/fish/completions/saot.fish`. Give it again after an upgrade.

    Args:
        shell: bash, zsh or fish.
    """
    script = app.generate_completion(prog_name="saot", shell=shell)
    if json:
        print_json({"shell": shell, "script": script})
    else:
        print(script)
