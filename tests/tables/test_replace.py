"""One field replaced by its path."""

import dataclasses

import pytest

from saot.match import MatchSettings
from saot.recipes import PAPER, replaced
from saot.tables.match.way import Way
from saot.tables.replace import with_changes


def test_a_path_reaches_its_field_and_nothing_else():
    deep = replaced(Way(), "settings.gwot.symmetry", 0.1)
    assert deep.settings.gwot.symmetry == 0.1
    assert replaced(deep, "settings.gwot.symmetry", Way().settings.gwot.symmetry) == Way()


@pytest.mark.parametrize("path", ["transport.tua", "transprot.tau", "transport.tau.more"])
def test_a_path_to_nowhere_is_refused_with_what_there_is(path):
    with pytest.raises(ValueError, match="expected a setting that exists") as caught:
        replaced(PAPER, path, 1.0)
    assert path in str(caught.value)


def test_what_is_no_field_of_the_settings_is_one_of_their_part():
    way = with_changes(Way(), {"masks": "object", "method": "nn", "gwot.symmetry": 0.1}, "settings")
    assert way.masks == "object" and way.settings == dataclasses.replace(
        MatchSettings(), method="nn", gwot=dataclasses.replace(MatchSettings().gwot, symmetry=0.1)
    )
    with pytest.raises(ValueError, match="nonsense"):
        with_changes(Way(), {"nonsense": 1}, "settings")
