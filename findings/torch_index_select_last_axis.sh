#!/usr/bin/env bash
# torch 2.13.0 on a CPU: `index_select` along the last axis of a contiguous tensor of three axes.
#
# One would expect: the time of the same tensor with its first two axes as one, which is a view: the same numbers are read
#   and written in the same order.
# What happens: with three axes it takes several times as long; indexing with `[:, :, index]` is faster than it, too.
# Seen (19 x 144 x 288 float32, 504 sorted columns, one thread; milliseconds differ by machine, the order does not):
#   three axes 7.80 ms, two axes 1.02 ms, x[:, :, index] 4.89 ms
# Exit 0 while it takes three times as long or more; 1 if it has changed.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2>/dev/null
cat > axes.py <<'PY'
import time

import torch

torch.set_num_threads(1)
x = torch.rand(19, 144, 288, generator=torch.Generator().manual_seed(0))
index = torch.linspace(0, 287, 504).long()


def best(call):
    seconds = []
    for _ in range(30):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1000 * min(seconds)


def flat():
    return x.flatten(0, 1).index_select(1, index).view(19, 144, 504)


assert x.flatten(0, 1).data_ptr() == x.data_ptr() and torch.equal(flat(), x.index_select(2, index))
three, two = best(lambda: x.index_select(2, index)), best(flat)
print(f"three axes {three:.2f} ms, two axes {two:.2f} ms, x[:, :, index] {best(lambda: x[:, :, index]):.2f} ms")
print("slow" if three > 3 * two else "as expected")
PY
env/bin/python axes.py | tee seen.txt
grep -qx slow seen.txt || { echo "CHANGED: not as described above"; exit 1; }
