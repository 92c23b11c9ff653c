#!/usr/bin/env bash
# POT 0.9.7.post1: `ot.bsp.compute_bspot_bijection(X, Y, seed=7)`, whose `seed` is a "random seed for reproducibility".
#
# One would expect: the same bijection and cost each time, with one plan and with 64, on one thread at least.
# What happens: the first call of a process follows the seed, later ones go on from where it left off, so each call returns
#   another bijection. `ot.solve_sample(method="bsp", random_state=0)` likewise.
# Seen (costs of 64 plans differ a little at each run; 300 standard normal points, 300 moved ones, OMP_NUM_THREADS=1):
#   1 plans: 3 costs of 3 calls, 2.0915 2.0718 2.0893
#   64 plans: 3 costs of 3 calls, 2.0075 2.0080 2.0074
#   solve_sample: 3 costs of 3 calls, 2.0108 2.0217 2.0129
# Exit 0 while this is so; 1 if it has changed.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 POT==0.9.7.post1 2>/dev/null
cat > seed.py <<'PY'
import numpy as np
import ot
from ot.bsp import compute_bspot_bijection

draw = np.random.default_rng(0)
x, y = draw.normal(size=(300, 2)), draw.normal(size=(300, 2)) + 1


def told(name, costs):
    print(f"{name}: {len(set(costs))} costs of {len(costs)} calls,", *(f"{cost:.4f}" for cost in costs))


for plans in (1, 64):
    told(f"{plans} plans", [float(compute_bspot_bijection(x, y, n_plans=plans, seed=7)[0]) for _ in range(3)])
told("solve_sample", [float(ot.solve_sample(x, y, method="bsp", random_state=0).value) for _ in range(3)])
PY
OMP_NUM_THREADS=1 env/bin/python seed.py | tee seen.txt
[ "$(grep -c ': [23] costs of 3 calls' seen.txt)" = 3 ] || { echo "CHANGED: not as described above"; exit 1; }
