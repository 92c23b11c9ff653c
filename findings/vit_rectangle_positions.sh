#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0): position tables of ViTs that were made for a rectangle.
#
# One would expect: `image_size` takes two sides (documented: "int or list"), the table has rows x columns entries, and
#   `interpolate_pos_encoding` gives it back unchanged at the very size it was made for.
# What happens: the sides are forgotten. Positions are put into a square of the root of their number, so a table of
#   4 x 9 is read as 6 x 6 and stretched to 4 x 9: wrong positions, no word. One of 4 x 6 has no such square and ends in
#   a RuntimeError about a reshape. Both hold for ViT and for DINOv2 with registers, which always interpolates.
# Seen:
#   ViT 4x9: table of 36 positions comes back changed by 3.86
#   ViT 4x6: RuntimeError: shape '[1, 4, 4, 32]' is invalid for input of size 768
#   Dinov2WithRegisters 4x9: table of 36 positions comes back changed by 3.74
#   Dinov2WithRegisters 4x6: RuntimeError: shape '[1, 4, 4, 32]' is invalid for input of size 768
# Exit 0 while this is so; 1 if it has changed.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0 2>/dev/null
cat > rectangle.py <<'PY'
import sys

import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, ViTConfig, ViTModel

surprised = 0
for config, model in ((ViTConfig, ViTModel), (Dinov2WithRegistersConfig, Dinov2WithRegistersModel)):
    for rows, columns in ((4, 9), (4, 6)):
        sides = [16 * rows, 16 * columns]
        small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16}
        torch.manual_seed(0)
        embeddings = model(config(image_size=sides, **small)).eval().embeddings
        name, table = config.__name__.removesuffix("Config"), embeddings.position_embeddings
        assert table.shape[1] == 1 + rows * columns
        with torch.no_grad():
            torch.nn.init.normal_(table)
            try:
                found = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + rows * columns, 32), *sides)
            except RuntimeError as error:
                print(f"{name} {rows}x{columns}: RuntimeError: {str(error).splitlines()[0]}")
                surprised += (rows, columns) == (4, 6)
            else:
                change = float((found - table).abs().max())
                print(f"{name} {rows}x{columns}: table of {rows * columns} positions comes back changed by {change:.2f}")
                surprised += (rows, columns) == (4, 9) and change > 0.1
sys.exit(surprised != 4)
PY
env/bin/python rectangle.py 2>/dev/null || { echo "CHANGED: not as described above"; exit 1; }
