"""The command line: the only place that prints, parses arguments or exits."""

import logging
import os
import sys
import warnings

from cyclopts import CycloptsError

from saot.cli import adaptation, annotation, export, jobs, lora, stores, tables
from saot.cli.shell import app, console, say

__all__ = ["adaptation", "annotation", "app", "export", "jobs", "lora", "main", "stores", "tables"]

# Threads of OpenMP that wait for work spin for milliseconds and take the cores of whoever else has some to do: products
# of two threads become tens of times slower. Two thousand turns, some microseconds, last until the next product and no
# longer. OpenMP reads this when torch is loaded, so it stands here, and nothing above loads torch.
WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
if not any(name in os.environ for name in (*WAITING, "KMP_BLOCKTIME")):
    os.environ.update(WAITING)

USAGE_ERROR, INTERRUPTED, PIPE_CLOSED = 2, 130, 141
LONGEST = 3000  # characters of a refusal
SMALLER = "give a smaller --size (saot adapt: --crop)"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    0 is done, 1 some of many pictures could not be read, 2 wrong input (one sentence, no traceback), 130 interrupted,
    141 whoever reads the output has closed it.
    """
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    warnings.simplefilter("once")
    for inner in (ResourceWarning, DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.simplefilter("ignore", inner)  # for whoever writes programs, not for whoever uses one
    warnings.showwarning = _note
    try:
        app(arguments, console=console, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        sys.exit(_refuse(f"{error}".strip().splitlines()[0] if str(error).strip() else "wrong arguments"))
    except BrokenPipeError:  # whoever read the output has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be told at the end
        sys.exit(PIPE_CLOSED)
    except OSError as error:
        sys.exit(_refuse(_in_words(error)))
    except (ValueError, FloatingPointError) as error:
        sys.exit(_refuse(str(error)))
    except MemoryError:
        sys.exit(_refuse(f"out of memory: {SMALLER}, or free some and give the same command again"))
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise
        sys.exit(_refuse(f"out of memory on the device: {SMALLER} or --device cpu"))
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        sys.exit(INTERRUPTED)


def _in_words(error: OSError) -> str:
    from saot.data import sentence_of

    return sentence_of(error)


def _note(message: Warning | str, *_: object, **__: object) -> None:
    """A warning without the file and the line of the program that gave it."""
    say(str(message))


def _refuse(sentence: str) -> int:
    if len(sentence) > LONGEST:  # a word of the user's in it may have megabytes
        sentence = f"{sentence[: LONGEST // 2]} ... {sentence[-LONGEST // 2 :]}"
    print(f"saot: {sentence}", file=sys.stderr)
    return USAGE_ERROR
