"""Labels carried along a sequence."""

from helpers.pair_tables import NEAREST
from PIL import Image

from saot.scenes.scene import render_scene
from saot.tables import Column, Experiment, Request, Row, reproduce
from saot.tables.match.sequences import clips, sequences


def test_frames_of_sequences_and_their_clips():
    assert sequences(["s/b_10.png", "s/a_2.png", "s/b_9.png", "s/b_8.png"]) == [[1], [3, 2, 0]]
    assert sequences(["b_10.png", "b_20.png", "b_30.png", "b_90.png"]) == [[0, 1, 2], [3]]
    assert clips(["a_1", "a_2", "a_3", "b_1"], 5, 2) == [[0, 1, 2]]


def test_labels_carried_along_a_sequence(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for number, scene in enumerate((1, 1, 5)):  # the second frame is the first again
        rendered = render_scene("game", "train", scene, 84, 168)
        Image.fromarray(rendered.image).save(tmp_path / "images" / f"a_{number}.png")
        Image.fromarray(rendered.labels).save(tmp_path / "masks" / f"a_{number}.png")
    rows = (Row("nn", changes=NEAREST), Row("gwot", changes={"method": "gwot", "gwot.steps": 3, "memory": 1}))
    columns = tuple(Column(str(distance), "", quantity="miou", of=distance) for distance in (1, 2))
    experiment = Experiment("s", "s", "ours", columns, rows, "sequences", base={"every": 1}, reference="nn")
    (tmp_path / "classes.txt").write_text("\n".join(f"c{number}" for number in range(19)) + "\n")
    request = Request(source=f"folder:{tmp_path}", size="84x168")
    found = reproduce(experiment, request, tmp_path / "out")
    assert found.images == 2
    one, two = (found.rows[0].cells[key].mean for key in ("1", "2"))
    assert one is not None and two is not None and one > 1.5 * two  # half of the first distance has nothing to find
    again = reproduce(experiment, request, tmp_path / "out")
    assert again.rows == found.rows
