"""The row and the column update, in two forms that the loop does not tell apart.

`LogUpdates` works on potentials in the log domain, with gradients. `KernelUpdates` stores a kernel and works on
scalings: one sparse (or dense) matrix-vector product and one power an update, without gradients.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .pairs import DensePairs, Pairs, SparsePairs, largest_exponent
from .problem import Problem, Side
from .products import csr, csr_transposed, has_sparse_kernels
from .sweeps import HalfSweep, Sweeps, sweeps_of

_MIN_PAIRS = 4096  # below this a log-sum-exp costs no more than its overhead


@dataclass(frozen=True, eq=False)
class State:
    """One side's potentials, as an update left them: scalings of `kernel`, or the potentials where it is None."""

    values: Tensor
    kernel: "Kernel | None" = None


class LogUpdates:
    """f = p epsilon (log(a / reference) - log sum_j exp(log reference_j + (g_j - C_ij) / epsilon)), as written."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._sums = _log_sums(problem)  # before the strength: gradients of epsilon add up in this order
        self._strength = problem.damping * problem.epsilon

    @property
    def log(self) -> "LogUpdates":
        """The same updates in the log domain: these."""
        return self

    def rows(self, y: State) -> State:
        """f from g."""
        return State(self._relax(self.problem.rows, self.lse_rows(y.values)))

    def cols(self, x: State) -> State:
        """g from f."""
        return State(self._relax(self.problem.cols, self.lse_cols(x.values)))

    def sweeps(self, y: State, count: int) -> tuple[State, State]:
        """f and g after `count` times f from g and g from f, at least once."""
        x = self.rows(y)
        y = self.cols(x)
        for _ in range(1, count):
            x = self.rows(y)
            y = self.cols(x)
        return x, y

    def f(self, x: State) -> Tensor:
        """The potentials (..., n) themselves; 0 for tokens that take no part."""
        return x.values

    def g(self, y: State) -> Tensor:
        """The potentials (..., m) themselves; 0 for tokens that take no part."""
        return y.values

    def lse_rows(self, g: Tensor) -> Tensor:
        """log sum_j exp(log reference_j + (g_j - C_ij) / epsilon), (..., n)."""
        return self._sums.rows(self.problem.cols.scale(g, self.problem.epsilon))

    def lse_cols(self, f: Tensor) -> Tensor:
        """log sum_i exp(log reference_i + (f_i - C_ij) / epsilon), (..., m)."""
        return self._sums.cols(self.problem.rows.scale(f, self.problem.epsilon))

    def _relax(self, side: Side, lse: Tensor) -> Tensor:
        """KL-relaxed marginal, Eq. (8); for the product reference log(a / reference) is 0: log a is not damped."""
        return self._strength * (side.log_ratio - side.inside(lse))


class LogSums:
    """Log-sum-exps of log scalings x (..., n) or y (..., m), -inf without mass, less C / epsilon; with gradients."""

    def __init__(self, problem: Problem) -> None:
        self.pairs, self.log_kernel = problem.pairs, problem.log_kernel()
        self._columns: Tensor | None = None  # the kernel in column order, made when first asked for

    def rows(self, y: Tensor) -> Tensor:
        """log sum_j exp(y_j - C_ij / epsilon), (..., n)."""
        return self.pairs.lse_rows(self.log_kernel, y)

    def cols(self, x: Tensor) -> Tensor:
        """log sum_i exp(x_i - C_ij / epsilon), (..., m)."""
        if self._columns is None:
            self._columns = self.pairs.in_columns(self.log_kernel)
        return self.pairs.lse_cols(self._columns, x)

    def rows_with_grain(self, lse: Tensor, b: Tensor, y: Tensor) -> Tensor:
        """log(exp(lse_i) + sum_j b_j exp(y_j - C_ij / epsilon)) at weights b_j of zero, with slopes in them.

        log b_j has no slope at b_j = 0, but such a sum has; y is -inf where b is above 0, for those are in lse.
        """
        grain = self._grain(_or_minus_inf(lse > -torch.inf, -lse), y)
        return lse + torch.log1p(self.pairs.sum_rows(grain * self.pairs.spread_cols(b)))

    def cols_with_grain(self, lse: Tensor, a: Tensor, x: Tensor) -> Tensor:
        """log(exp(lse_j) + sum_i a_i exp(x_i - C_ij / epsilon)) at weights a_i of zero, likewise."""
        grain = self._grain(x, _or_minus_inf(lse > -torch.inf, -lse))
        return lse + torch.log1p(self.pairs.sum_cols(grain * self.pairs.spread_rows(a)))

    def _grain(self, x: Tensor, y: Tensor) -> Tensor:
        """exp(x_i + y_j - C_ij / epsilon) on the pairs."""
        exponent = self.log_kernel + (self.pairs.spread_rows(x) + self.pairs.spread_cols(y))
        return exponent.clamp(max=largest_exponent(x.dtype)).exp()


class _FirstGrainLogSums:
    """`LogSums` where weights of zero have derivatives too: what the first grain of weight would change."""

    def __init__(self, problem: Problem) -> None:
        self._log, self._damping = LogSums(problem), problem.damping
        self._a, self._b = problem.rows.weight, problem.cols.weight
        self._row_lse: Tensor | None = None
        self._col_lse: Tensor | None = None

    def rows(self, y: Tensor) -> Tensor:
        """log sum_j exp(y_j - C_ij / epsilon), (..., n)."""
        lse = self._log.rows(y)
        if self._col_lse is not None:
            lse = self._log.rows_with_grain(lse, self._b, self._scaling(self._b, self._col_lse))
        self._row_lse = lse
        return lse

    def cols(self, x: Tensor) -> Tensor:
        """log sum_i exp(x_i - C_ij / epsilon), (..., m)."""
        lse = self._log.cols(x)
        if self._row_lse is not None:
            lse = self._log.cols_with_grain(lse, self._a, self._scaling(self._a, self._row_lse))
        self._col_lse = lse
        return lse

    def _scaling(self, weight: Tensor, lse: Tensor) -> Tensor:
        """Potential / epsilon of the tokens of weight zero; -inf for the others."""
        finite = torch.where(lse > -torch.inf, lse, 0.0)
        return _or_minus_inf((weight == 0) & (lse > -torch.inf), -self._damping * finite)


def _or_minus_inf(mask: Tensor, x: Tensor) -> Tensor:
    return torch.where(mask, x, -torch.inf)


def _log_sums(problem: Problem) -> LogSums | _FirstGrainLogSums:
    a, b = problem.rows.weight, problem.cols.weight
    zero = (a.requires_grad and bool((a == 0).any())) or (b.requires_grad and bool((b == 0).any()))
    return _FirstGrainLogSums(problem) if zero and problem.reference == "product" else LogSums(problem)


def both_updates(problem: Problem, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """T1(g) and T2(f), of which the potentials are the fixed point, with every derivative.

    Tokens of weight zero have an update too, and the others' depends on their weights. 0 without candidates.
    """
    rows, cols, epsilon = problem.rows, problem.cols, problem.epsilon
    sums, strength = LogSums(problem), problem.damping * epsilon
    row_lse, col_lse = sums.rows(cols.scale(g, epsilon)), sums.cols(rows.scale(f, epsilon))
    if problem.reference == "product":
        if bool((cols.weight == 0).any()):
            row_lse = sums.rows_with_grain(row_lse, cols.weight, _padding_scale(cols, g, epsilon))
        if bool((rows.weight == 0).any()):
            col_lse = sums.cols_with_grain(col_lse, rows.weight, _padding_scale(rows, f, epsilon))
    row_lse, col_lse = (torch.where(lse > -torch.inf, lse, 0.0) for lse in (row_lse, col_lse))
    return strength * (rows.log_ratio - row_lse), strength * (cols.log_ratio - col_lse)


def _padding_scale(side: Side, potential: Tensor, epsilon: Tensor) -> Tensor:
    """Potential / epsilon of the tokens of weight zero; -inf for the others, and without candidates."""
    padding = (side.weight == 0) & potential.isfinite()
    return _or_minus_inf(padding, torch.where(padding, potential, 0.0) / epsilon)


class KernelUpdates:
    """The scaling form with absorption, for one problem or for the blocks of one support.

    The kernel K_ij = exp(s_i + t_j - C_ij / epsilon - top) turns the row update into u = alpha (K v)^-p with
    the scalings u = exp(log a + f / epsilon - s) and v = exp(log b + g / epsilon - t). A kernel is used where it
    is exact to rounding, that is, in one of two cases:

    - narrow: no two pairs' kernels differ by more than exp(45) (float64: exp(300)) and all scalings lie within
      exp(+-40) (exp(+-350)). Every product is then a normal number.
    - floored: no row or column sum of K that carries mass is below 1e-16 (1e-100) and all scalings lie within
      exp(+-12) (exp(+-100)). A pair may underflow; that takes less than 3e-12 (1e-120) of a sum.

    The first kernel tried has s = t = 0, the next s_i = min_j C_ij / epsilon. A scaling that leaves its range is
    absorbed: s and t become the scalings of the moment. Where no kernel is exact, updates are done in the log
    domain; after each such failure twice as many of them pass until the next try. Blocks have one kernel, exact where
    it is for each of them, and absorb together; each has its own top, epsilon and p. `first` are the potentials f that
    the first g comes with, if the loop does not start at 0.
    """

    def __init__(self, problem: Problem, first: State | None = None) -> None:
        self.problem = problem
        self._epsilon, self._damping = _number(problem.epsilon), _number(problem.damping)
        self._kernel: Kernel | None = None
        self._first = first
        self._x: State | None = None  # the last states seen, what a kernel is built at
        self._y: State | None = None
        self._wait, self._patience = 0, 1

    @functools.cached_property
    def log(self) -> LogUpdates:
        """The same updates in the log domain."""
        return LogUpdates(self.problem)

    def rows(self, y: State) -> State:
        """f from g."""
        self._y = y
        self._x = self._update(y, into_rows=True)
        return self._x

    def cols(self, x: State) -> State:
        """g from f."""
        self._x = x
        self._y = self._update(x, into_rows=False)
        return self._y

    def sweeps(self, y: State, count: int) -> tuple[State, State]:
        """f and g after `count` times f from g and g from f, at least once; by machine code where that can be."""
        x, y, done = self._some_sweeps(y, count)
        while done < count:
            x, y, more = self._some_sweeps(y, count - done)
            done += more
        return x, y

    def _some_sweeps(self, y: State, most: int) -> tuple[State, State, int]:
        """f, g and how many sweeps they are: by machine code those up to `most` that keep in range, else one."""
        self._y = y
        entered = self._entered(y, into_rows=True)
        if entered is None:
            self._x = self._log_update(y, into_rows=True)
            return self._x, self.cols(self._x), 1
        kernel, scaling = entered
        if kernel.sweeps is not None:
            done, u, v = kernel.sweeps.run(scaling.flatten(), most)
            if done > 0:
                pairs = self.problem.pairs
                self._x, self._y = State(pairs.as_rows(u), kernel), State(pairs.as_cols(v), kernel)
                return self._x, self._y, done
        x = self.rows(State(scaling, kernel))
        return x, self.cols(x), 1

    def f(self, x: State) -> Tensor:
        """Potentials (n,)."""
        return x.values if x.kernel is None else self._potential(x.kernel.rows, x.values, self.problem.rows)

    def g(self, y: State) -> Tensor:
        """Potentials (m,)."""
        return y.values if y.kernel is None else self._potential(y.kernel.cols, y.values, self.problem.cols)

    def _update(self, state: State, into_rows: bool) -> State:
        entered = self._entered(state, into_rows)
        if entered is None:
            return self._log_update(state, into_rows)
        kernel, scaling = entered
        half = kernel.rows if into_rows else kernel.cols
        pairs = self.problem.pairs
        sums = torch.mv(half.matrix, scaling.flatten())
        power = (pairs.as_rows(sums) if into_rows else pairs.as_cols(sums)).pow_(half.power)
        if half.idle is not None:
            power = torch.where(half.idle, half.middle, power)
        if half.holds(power):
            return State(power.mul_(half.alpha), kernel)
        potential = self._potential(half, power * half.alpha, self.problem.rows if into_rows else self.problem.cols)
        self._kernel = None
        return State(potential) if bool(potential.isfinite().all()) else self._log_update(state, into_rows)

    def _entered(self, state: State, into_rows: bool) -> "tuple[Kernel, Tensor] | None":
        """The kernel of the moment and a side's scalings of it; None if there is none."""
        if self._kernel is not None and state.kernel is self._kernel:
            return self._kernel, state.values
        return self._enter(self.g(state) if into_rows else self.f(state), into_rows)

    def _log_update(self, state: State, into_rows: bool) -> State:
        if into_rows:
            return self.log.rows(State(self.g(state)))
        return self.log.cols(State(self.f(state)))

    def _potential(self, half: "_Half", scaling: Tensor, side: Side) -> Tensor:
        return side.inside((scaling.log() + half.base) * self._epsilon)

    def _enter(self, potential: Tensor, from_cols: bool) -> "tuple[Kernel, Tensor] | None":
        """A kernel, made anew where it must be, and the potentials of one side as its scalings; None if none is."""
        side = self.problem.cols if from_cols else self.problem.rows
        if self._kernel is None:
            self._kernel = self._absorb()
        for _ in range(2):
            kernel = self._kernel
            if kernel is None:
                return None
            half = kernel.cols if from_cols else kernel.rows
            log = side.inside(potential / self._epsilon - half.base)
            low, high = log.aminmax()
            if -kernel.drift <= float(low) and float(high) <= kernel.drift:
                return kernel, side.inside(log.exp())
            self._x = self._x or self._first
            self._kernel = self._absorb()
        return None

    def _absorb(self) -> "Kernel | None":
        """A kernel at the states last seen, or None where none is exact."""
        if self._wait > 0:
            self._wait -= 1
            return None
        for s, t in self._shifts():
            kernel = self._kernel_at(s, t)
            if kernel is not None:
                self._patience = 1
                return kernel
        self._wait, self._patience = self._patience, 2 * self._patience
        return None

    def _shifts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What to try as s and t, in this order."""
        problem = self.problem
        if self._x is None or self._y is None:  # the first update
            yield torch.zeros_like(problem.rows.weight), torch.zeros_like(problem.cols.weight)
            nearest = problem.pairs.max_rows(problem.log_kernel())
            yield torch.where(nearest > -torch.inf, -nearest, 0.0), problem.cols.log_reference
        last = self._x or self._first
        if last is not None and self._y is not None:
            x = problem.rows.scale(self.f(last), problem.epsilon)
            y = problem.cols.scale(self.g(self._y), problem.epsilon)
            yield torch.where(x > -torch.inf, x, 0.0), torch.where(y > -torch.inf, y, 0.0)

    def _kernel_at(self, s: Tensor, t: Tensor) -> "Kernel | None":
        """The kernel with these shifts, if it is exact."""
        problem, pairs = self.problem, self.problem.pairs
        narrow, wide_drift, floor, drift = _LIMITS[s.dtype]
        if bool(s.any()) or bool(t.any()):
            exponent = pairs.add_rows_(problem.log_kernel(), s).add_(pairs.spread_cols(t))
            low, top = pairs.extremes(exponent)
        else:
            exponent, (least, most) = None, pairs.extremes(pairs.cost)
            low, top = most / -problem.epsilon, least / -problem.epsilon
        is_narrow = bool((top - low <= narrow).all())  # not where a pair is forbidden: its exponent is -inf
        top = torch.where(top > -torch.inf, top, 0.0)
        if exponent is None and isinstance(pairs, SparsePairs):
            values = pairs.exponentials((-top).expand(s.shape), t, -problem.epsilon)
        else:
            values = (problem.log_kernel() if exponent is None else exponent).sub_(pairs.scalar(top)).exp_()
        if isinstance(pairs, SparsePairs):
            by_row, by_col = csr(values, pairs.support), csr_transposed(values, pairs.support)
        else:
            by_row, by_col = values, values.mT
        if not is_narrow:
            for matrix, active, ones in (
                (by_row, problem.rows.active, problem.cols.active),
                (by_col, problem.cols.active, problem.rows.active),
            ):
                sums = matrix @ ones.to(values.dtype).flatten()
                active = active.flatten()
                if bool((active & ~((sums >= floor) & (sums <= 1 / floor))).any()):
                    return None
            wide_drift = drift
        rows = self._half(by_row, problem.rows, s, top, wide_drift)
        cols = self._half(by_col, problem.cols, t, top, wide_drift)
        return Kernel(rows, cols, wide_drift, sweeps_of(rows.for_sweeps(), cols.for_sweeps(), wide_drift))

    def _half(self, matrix: Tensor, side: Side, shift: Tensor, top: Tensor, drift: float) -> "_Half":
        p = self._damping
        log_alpha = side.log_reference + p * side.log_ratio - shift + p * (shift - top)
        smallest, largest = (_number(v) for v in side.inside(log_alpha).aminmax(dim=-1, keepdim=True))
        return _Half(
            matrix=matrix,
            power=-p,
            log_alpha=side.inside(log_alpha, -torch.inf),
            idle=None if side.whole else ~side.active,
            base=shift - side.log_reference,
            low=_exp(-drift - smallest),
            middle=_exp(-(smallest + largest) / 2, largest_exponent(log_alpha.dtype)),
            high=_exp(drift - largest),
        )


_LIMITS = {torch.float32: (45.0, 40.0, 1e-16, 12.0), torch.float64: (300.0, 350.0, 1e-100, 100.0)}


@dataclass(frozen=True, eq=False)
class _Half:
    """What one side's update needs of a kernel.

    Attributes:
        matrix: From the other side's scalings to this side's sums.
        power: -p.
        log_alpha: Logarithm of the factor alpha of the power of the sums; -inf for tokens that take no part.
        idle: Tokens that take no part, or None if there are none.
        base: potential / epsilon is log scaling + base.
        low: Least value the power may have.
        middle: A value in between, for idle tokens.
        high: Largest value the power may have.
    """

    matrix: Tensor
    power: float | Tensor
    log_alpha: Tensor
    idle: Tensor | None
    base: Tensor
    low: float | Tensor
    middle: float | Tensor
    high: float | Tensor

    @functools.cached_property
    def alpha(self) -> Tensor:
        """Factor of the power of the sums; 0 for tokens that take no part."""
        return self.log_alpha.exp()

    def for_sweeps(self) -> HalfSweep:
        """The same for machine code."""
        power = self.power
        if isinstance(power, Tensor):
            power = power.expand(self.log_alpha.shape).flatten()
        return HalfSweep(self.matrix, self.log_alpha, power)

    def holds(self, power: Tensor) -> bool:
        """Whether the powers of the sums make scalings within the kernel's drift."""
        if isinstance(self.low, float) and isinstance(self.high, float):
            low, high = power.aminmax()
            return self.low <= low.item() and high.item() <= self.high
        return bool(((power >= self.low) & (power <= self.high)).all())


@dataclass(frozen=True, eq=False)
class Kernel:
    """A stored kernel with its two shifts; scalings of it lie within exp(+-drift). `sweeps` is machine code or None."""

    rows: _Half
    cols: _Half
    drift: float
    sweeps: Sweeps | None


def _number(x: Tensor) -> float | Tensor:
    """A number, or one for each block (count, 1) where they differ."""
    return float(x.flatten()[0]) if x.numel() == 1 or bool((x == x.flatten()[0]).all()) else x


def _exp(x: float | Tensor, largest: float = math.inf) -> float | Tensor:
    if isinstance(x, Tensor):
        return x.clamp(max=largest).exp()
    x = min(x, largest)
    return math.exp(x) if x < 700 else math.inf


def has_fast_path(pairs: Pairs) -> bool:
    """Whether `KernelUpdates` pays for a problem of this size on this device."""
    count = pairs.cost.shape[-2:].numel() if isinstance(pairs, DensePairs) else pairs.cost.numel()
    fast = isinstance(pairs, DensePairs) or has_sparse_kernels(pairs.cost.device)
    return pairs.cost.device.type == "cpu" and count >= _MIN_PAIRS and fast
