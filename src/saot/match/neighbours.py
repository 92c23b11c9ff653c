"""Local structure on grids: tokens that are near each other should not be carried far apart. GWOT, Eqs. (2) and (5).

With C^p_ik = 1 for source tokens nearer than delta_min, else 0, and C^q_jl = 1 for target tokens farther apart than
delta_max, else 0,

    F_GW(T) = <C^p T C^q, T>

counts the mass of near sources that goes to far targets. Both matrices are neighbourhoods of a grid, so
C^p T C^q = rowsum(A) - disk(A) with A = disk(T): sums over the source's disk, then, since C^q is all ones but for a
disk, the mass of each row less the sum over the target's disk. That takes one addition for each row and each column of
a disk, in place of a product of n x n with n x m with m x m.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from saot.match.machine_code import near_and_far

_BLOCK_BYTES = 2**20  # of a plan held at one time on a CPU: what a core's cache holds


@dataclass(frozen=True)
class Disk:
    """Offsets of a grid up to a distance: a run of columns for each row.

    Attributes:
        half_widths: Of the rows -r .. r; a row of half width w has the columns -w .. w.
    """

    half_widths: tuple[int, ...]

    @classmethod
    def of_radius(cls, radius: float, strict: bool) -> "Disk":
        """Offsets at a distance below the radius (strict), or up to it.

        Raises:
            ValueError: If not even the centre is within.

        Example:
            >>> Disk.of_radius(3, strict=True).half_widths, Disk.of_radius(5, strict=False).size
            ((2, 2, 2, 2, 2), 81)
        """
        if not (radius > 0 if strict else radius >= 0):
            raise ValueError(f"expected a radius that holds the centre; got {radius}")

        def inside(row: int, column: int) -> bool:
            square = row * row + column * column
            return square < radius * radius if strict else square <= radius * radius

        reach = max(step for step in range(int(radius) + 1) if inside(step, 0))
        widths = [max(step for step in range(reach + 1) if inside(row, step)) for row in range(reach + 1)]
        return cls((*reversed(widths[1:]), *widths))

    @property
    def radius(self) -> int:
        """Rows on either side of the centre."""
        return len(self.half_widths) // 2

    @property
    def size(self) -> int:
        """Number of offsets, the centre among them."""
        return sum(2 * width + 1 for width in self.half_widths)

    def rows_within(self, width: int) -> list[int]:
        """Offsets of the rows whose run reaches column `width`."""
        return [row - self.radius for row, reach in enumerate(self.half_widths) if reach >= width]


@dataclass(frozen=True)
class LocalStructure:
    """C^p and C^q of two grids, Eq. (5), never as matrices.

    Attributes:
        source: Rows and columns of the source's grid.
        target: Rows and columns of the target's grid.
        near: delta_min, in tokens: sources nearer than this belong together.
        far: delta_max, in tokens: targets farther apart than this do not.
        centre: Whether a source is its own neighbour, as in Eq. (5); it then costs a row to be split over far targets.

    Raises:
        ValueError: If a grid has no token, or a distance holds none.

    Example:
        Two neighbours go to the two ends of a row of eight: each costs the other its mass.

        >>> local = LocalStructure((1, 2), (1, 8), near=3, far=5)
        >>> plan = torch.zeros(2, 8)
        >>> plan[0, 0] = plan[1, 7] = 0.5
        >>> float((local.multiply(plan) * plan).sum())
        0.5
    """

    source: tuple[int, int]
    target: tuple[int, int]
    near: float = 3.0
    far: float = 5.0
    centre: bool = True
    near_disk: Disk = field(init=False, repr=False, compare=False)
    far_disk: Disk = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, shape in (("source", self.source), ("target", self.target)):
            if min(shape) < 1:
                raise ValueError(f"the {name}'s grid must have a token a side, but is {shape[0]} x {shape[1]}")
        object.__setattr__(self, "near_disk", Disk.of_radius(self.near, strict=True))
        object.__setattr__(self, "far_disk", Disk.of_radius(self.far, strict=False))
        if self.taps == 0:
            raise ValueError(f"no source has a neighbour nearer than {self.near} tokens besides itself; raise near")

    @property
    def taps(self) -> int:
        """Neighbours of a source far from the border."""
        return self.near_disk.size - (not self.centre)

    def multiply(self, plan: Float[Tensor, "... n m"]) -> Float[Tensor, "... n m"]:
        """C^p T C^q of a plan; half its gradient of <C^p T C^q, T>, both matrices being symmetric."""
        self.check(plan)
        out = torch.empty_like(plan)
        grid, spread = self.on_grid(plan), self.on_grid(out)
        for start, stop in self.blocks(plan):
            spread[..., start:stop, :, :] = self.rows(grid, start, stop)
        return out

    def rows(
        self, plan: Float[Tensor, "... rows columns m"], start: int, stop: int
    ) -> Float[Tensor, "... block columns m"]:
        """C^p T C^q of some rows of the source's grid.

        Args:
            plan: The whole plan, as `on_grid` shows it.
            start, stop: Rows of the source's grid.
        """
        compiled = near_and_far(
            plan, (start, stop), self.near_disk.half_widths, self.far_disk.half_widths, self.target, self.centre
        )
        return self._far(self._near(plan, start, stop)) if compiled is None else compiled

    def on_grid(self, plan: Float[Tensor, "... n m"]) -> Float[Tensor, "... rows columns m"]:
        """The plan with its sources on their grid; a view."""
        return plan.unflatten(-2, self.source)

    def blocks(self, plan: Float[Tensor, "... n m"]) -> list[tuple[int, int]]:
        """Rows of the source's grid that are best treated at one time: all on an accelerator, a cacheful on a CPU."""
        rows = self.source[0]
        if plan.device.type != "cpu":
            return [(0, rows)]
        step = max(1, _BLOCK_BYTES * rows // max(1, plan.numel() * plan.element_size()))
        return [(start, min(start + step, rows)) for start in range(0, rows, step)]

    def matrices(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> tuple[Float[Tensor, "n n"], Float[Tensor, "m m"]]:
        """C^p and C^q written out, Eq. (5): for reading and for tests."""

        def squares(shape: tuple[int, int]) -> Tensor:
            places = torch.cartesian_prod(*(torch.arange(size, device=device) for size in shape)).reshape(-1, 2)
            return (places.unsqueeze(0) - places.unsqueeze(1)).square().sum(-1)

        near = squares(self.source) < self.near**2
        if not self.centre:
            near.fill_diagonal_(False)
        return near.to(dtype), (squares(self.target) > self.far**2).to(dtype)

    def check(self, plan: Tensor) -> None:
        """Raise a ValueError if a plan does not fit the grids."""
        if tuple(plan.shape[-2:]) != self.tokens:
            raise ValueError(
                f"grids of {self.source[0]} x {self.source[1]} and {self.target[0]} x {self.target[1]} tokens have "
                f"plans of shape {self.tokens}, but this one has {tuple(plan.shape[-2:])}"
            )

    def _near(self, plan: Tensor, start: int, stop: int) -> Tensor:
        """A = C^p T of some rows: nested sums, the shortest runs of the disk last."""
        rows, columns = self.source
        disk, above = self.near_disk, None
        out = plan.new_zeros(*plan.shape[:-3], stop - start, columns, plan.shape[-1])
        for width in range(max(disk.half_widths), -1, -1):
            shifts = disk.rows_within(width)
            new = shifts if above is None else [s for s in shifts if s not in disk.rows_within(width + 1)]
            above = torch.zeros_like(out) if above is None else above
            for shift in new:
                low, high = max(start + shift, 0), min(stop + shift, rows)
                if low < high:
                    above[..., low - shift - start : high - shift - start, :, :] += plan[..., low:high, :, :]
            for column in {width, -width}:
                low, high = max(column, 0), min(columns + column, columns)
                if low < high:
                    out[..., low - column : high - column, :] += above[..., low:high, :]
        if not self.centre:
            out -= plan[..., start:stop, :, :]
        return out

    def _far(self, spread: Tensor) -> Tensor:
        """A C^q: the mass of each row less the sum over the disk about each target."""
        height, width = self.target
        disk = self.far_disk
        rows, columns = disk.radius, max(disk.half_widths)
        padded = torch.nn.functional.pad(spread.unflatten(-1, self.target), (columns, columns, rows, rows))
        flat, line = padded.flatten(), width + 2 * columns
        margin = rows * line + columns  # a shift never leaves this; what wraps around falls into padding
        size = flat.numel() - 2 * margin
        total, above = torch.zeros_like(flat), torch.zeros_like(flat)
        inner, held = total[margin : margin + size], above[rows * line : flat.numel() - rows * line]
        done: list[int] = []
        for reach in range(columns, -1, -1):
            for shift in disk.rows_within(reach):
                if shift not in done:
                    begin = (rows + shift) * line
                    held += flat[begin : begin + held.numel()]
                    done.append(shift)
            for column in {reach, -reach}:
                inner += above[margin + column : margin + column + size]
        near = total.view(padded.shape)[..., rows : rows + height, columns : columns + width]
        return (spread.sum(-1, keepdim=True) - near.flatten(-2)).contiguous()

    @property
    def tokens(self) -> tuple[int, int]:
        """Number of sources and of targets."""
        return self.source[0] * self.source[1], self.target[0] * self.target[1]
