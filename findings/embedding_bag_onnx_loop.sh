#!/usr/bin/env bash
# torch 2.13.0 with onnxscript 0.7.2 and onnx 1.23.2: `torch.onnx.export` (dynamo=True, optimised) of
# `torch.nn.functional.embedding_bag` in mode "sum" with per-sample weights, whose indices are a constant of 6 bags of 3.
#
# One would expect: every bag has as many members, so the sum is a Gather, a Mul and a ReduceSum, whatever the number of bags.
# What happens: the bags are treated as of unknown lengths. The model has a Loop with one turn a bag, each of which slices
#   its members, sums them inside an If and appends the row to a sequence, and a ConcatFromSequence at its end.
# Seen:
#   sum: ['Gather', 'Mul', 'Identity', 'SequenceEmpty', 'Loop', 'ConcatFromSequence', 'Cast']
#   in the loop: ['Reshape', 'CastLike', 'Add', 'Slice', 'CastLike', 'Add', 'CastLike', 'Add', 'Slice', 'Equal', 'If',
#     'SequenceInsert', 'CastLike', 'Add', 'Less']
# Exit 0 while this is so; 1 if it has changed.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 2>/dev/null
cat > bag.py <<'PY'
import torch
from torch.nn.functional import embedding_bag


class Bags(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("index", torch.randint(5, (6, 3), generator=generator))
        self.register_buffer("weight", torch.rand(6, 3, generator=generator))

    def forward(self, table):
        return embedding_bag(self.index, table, mode="sum", per_sample_weights=self.weight)


graph = torch.onnx.export(Bags().eval(), (torch.rand(5, 4),), dynamo=True, verbose=False).model.graph
print("sum:", [node.op_type for node in graph])
for node in graph:
    if node.op_type == "Loop":
        print("in the loop:", [inner.op_type for inner in node.attributes["body"].value])
PY
env/bin/python bag.py 2>/dev/null | tee seen.txt
grep -q "^sum: .*'Loop', 'ConcatFromSequence'" seen.txt && ! grep -q "^sum: .*ReduceSum" seen.txt \
  && grep -q "^in the loop: .*'Slice', 'Equal', 'If', 'SequenceInsert'" seen.txt \
  || { echo "CHANGED: not as described above"; exit 1; }
