#!/usr/bin/env bash
# torch 2.13.0 on x86-64 with AVX2 or better. ATEN_CPU_CAPABILITY=default is set to get the same numbers on every machine.
#
# One would expect: with the capability reported as DEFAULT, a convolution runs without vector kernels of this processor, so
#   its bytes are those of a machine without AVX.
# What happens: the variable reaches ATen's own kernels alone. Convolutions go to oneDNN, which still picks the best
#   instruction set of the processor, and the result differs in its bits from that of a baseline machine. Only
#   ONEDNN_MAX_CPU_ISA holds oneDNN back.
# Seen on a processor with AVX-512 (with AVX2 alone the first line names avx2):
#   capability DEFAULT, convolution by jit:avx512_core
#   capability DEFAULT, convolution by jit:sse41 (with ONEDNN_MAX_CPU_ISA=SSE41)
#   same bytes: no
# Exit 0 while this is so; 1 if it has changed; 3 where the processor has no AVX2.
set -euo pipefail
grep -qw avx2 /proc/cpuinfo || { echo "needs an x86-64 processor with AVX2"; exit 3; }
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2>/dev/null
cat > conv.py <<'PY'
import hashlib
import torch

print("version", torch.__version__, "capability", torch.backends.cpu.get_cpu_capability())
generator = torch.Generator().manual_seed(0)
image, weight = (torch.randn(*shape, generator=generator) for shape in ((2, 16, 24, 24), (32, 16, 3, 3)))
out = torch.nn.functional.conv2d(image, weight)
print("bytes", hashlib.sha256(out.numpy().tobytes()).hexdigest())
PY
export OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default ONEDNN_VERBOSE=1
env/bin/python conv.py > free.txt
ONEDNN_MAX_CPU_ISA=SSE41 env/bin/python conv.py > held.txt
kernel() { grep 'exec,cpu,convolution' "$1" | head -1 | cut -d, -f7; }
bytes() { grep '^bytes' "$1"; }
grep -h '^version' free.txt held.txt
echo "convolution by $(kernel free.txt)"
echo "convolution by $(kernel held.txt) (with ONEDNN_MAX_CPU_ISA=SSE41)"
same=no; [ "$(bytes free.txt)" = "$(bytes held.txt)" ] && same=yes
echo "same bytes: $same"
grep -q 'capability DEFAULT' free.txt && kernel free.txt | grep -q 'avx' && kernel held.txt | grep -q 'sse41' && [ $same = no ] \
  || { echo "CHANGED: not as described above"; exit 1; }
