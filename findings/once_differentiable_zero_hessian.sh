#!/usr/bin/env bash
# torch 2.13.0. An autograd Function whose backward is marked `once_differentiable`, as solvers with a hand-written gradient
# mark theirs, and a number made of it: sum(x^3).
#
# One would expect: asking for a second derivative raises, for the mark says that there is none.
# What happens: `torch.autograd.functional.hessian` returns zeros without a word. Where the gradient that comes in is a
#   constant, such as a loss's own 1, what the backward returns needs no gradient at all, so a gradient penalty is dropped
#   too. Where it needs one (f squared), the result ends in an Error node that has no edge to x: asked for the gradient in x
#   by name, autograd never gets to it, and zeros come again; only `backward()` meets it and raises.
# Seen:
#   hessian of f: all zeros (the truth is diag(6 x))
#   penalty on the gradient of f: does not require grad
#   hessian of f squared: all zeros
#   backward through the gradient of f squared: RuntimeError: trying to differentiate twice a function that was marked with @once_differentiable
# Exit 0 while this is so; 1 if it has changed.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2>/dev/null
cat > twice.py <<'PY'
import torch
from torch.autograd.function import once_differentiable


class Cubes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x**3).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 3 * x**2


print("version", torch.__version__)
x = torch.tensor([1.0, 2.0, 3.0])
hessian = torch.autograd.functional.hessian(Cubes.apply, x)
print("hessian of f:", "all zeros" if not hessian.any() else hessian.tolist())
x.requires_grad_()
(gradient,) = torch.autograd.grad(Cubes.apply(x), x, create_graph=True)
print("penalty on the gradient of f:", "requires grad" if gradient.square().sum().requires_grad else "does not require grad")
hessian = torch.autograd.functional.hessian(lambda x: Cubes.apply(x) ** 2, x.detach())
print("hessian of f squared:", "all zeros" if not hessian.any() else hessian.tolist())
(gradient,) = torch.autograd.grad(Cubes.apply(x) ** 2, x, create_graph=True)
try:
    gradient.sum().backward()
    print("backward through the gradient of f squared: no error")
except RuntimeError as error:
    print("backward through the gradient of f squared: RuntimeError:", error)
PY
env/bin/python twice.py | tee seen.txt
grep -q '^hessian of f: all zeros' seen.txt && grep -q '^penalty .* does not require grad' seen.txt \
  && grep -q '^hessian of f squared: all zeros' seen.txt && grep -q '^backward .* RuntimeError: trying to differentiate twice' seen.txt \
  || { echo "CHANGED: not as described above"; exit 1; }
