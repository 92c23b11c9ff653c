"""Names of sets."""

import pytest

from saot.match.pairs.readers import open_pairs


def test_unknown_sets_and_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no set of pairs 'spairs'; the known ones are spair, pf-pascal"):
        open_pairs(f"spairs:{tmp_path}")
    for name in ("spair", "pf-pascal", "tss", "ap10k", "warps"):
        with pytest.raises(ValueError, match=rf"{name} expects a folder, but .*gone is missing"):
            open_pairs(f"{name}:{tmp_path}/gone")
