"""How many iterations the transport problems of some work take."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from saot.transport import sinkhorn


@contextmanager
def counted() -> Iterator[list[int]]:
    """The iterations of each solve inside, in their order; of a batch the most."""
    found: list[int] = []
    plain = sinkhorn.iterate

    def counting(*arguments):
        end = plain(*arguments)
        found.append(int(end.iterations.max()))
        return end

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sinkhorn, "iterate", counting)
        yield found
