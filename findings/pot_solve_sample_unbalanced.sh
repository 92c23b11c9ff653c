#!/usr/bin/env bash
# POT 0.9.7.post1: `ot.solve_sample(x, y, unbalanced=0.1, method=...)`, 300 points against 300 others moved by 1.
#
# One would expect: a plan of less than full mass, as without a method, or an error where a method cannot do it.
# What happens: "bsp", "nystroem", "factored" and "lowrank" return a plan of mass 1 and say nothing; "sliced" and "max_sliced"
#   return the value that they have without `unbalanced`.
# Seen:
#   none: mass 0.622
#   bsp: mass 1.000
#   nystroem: mass 1.000
#   factored: mass 1.000
#   lowrank: mass 1.000
#   sliced: the value of a balanced problem: True
#   max_sliced: the value of a balanced problem: True
# Exit 0 while this is so; 1 if it has changed.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 scipy==1.17.1 POT==0.9.7.post1 2>/dev/null
cat > unbalanced.py <<'PY'
import warnings

import numpy as np
import ot

warnings.simplefilter("ignore")
draw = np.random.default_rng(0)
x, y = draw.normal(size=(300, 2)), draw.normal(size=(300, 2)) + 1
print(f"none: mass {ot.solve_sample(x, y, unbalanced=0.1).plan.sum():.3f}")
for method, reg in (("bsp", None), ("nystroem", 1.0), ("factored", None), ("lowrank", 1.0)):
    plan = ot.solve_sample(x, y, method=method, reg=reg, unbalanced=0.1, random_state=0).plan
    print(f"{method}: mass {plan.sum():.3f}")
for method in ("sliced", "max_sliced"):
    values = [ot.solve_sample(x, y, method=method, random_state=0, **more).value for more in ({}, {"unbalanced": 0.1})]
    print(f"{method}: the value of a balanced problem: {bool(np.isclose(*values, rtol=1e-12))}")
PY
OMP_NUM_THREADS=1 env/bin/python unbalanced.py | tee seen.txt
grep -q "^none: mass 0.6" seen.txt && [ "$(grep -c 'mass 1.000' seen.txt)" = 4 ] \
  && [ "$(grep -c 'balanced problem: True' seen.txt)" = 2 ] || { echo "CHANGED: not as described above"; exit 1; }
