"""`saot reproduce` through its front door."""

import json

import pytest

from saot import cli
from saot.tables import EXPERIMENTS


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(["reproduce", *arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_list(capsys):
    code, out, _ = call(capsys, "--list")
    assert code == 0 and out.split() == list(EXPERIMENTS)
    code, out, _ = call(capsys, "--list", "--json")
    listed = json.loads(out)
    assert code == 0 and list(listed) == list(EXPERIMENTS)
    assert set(listed["saot-table-5"]) == {"title", "rows", "columns", "needs", "location", "makes", "cannot"}
    assert listed["saot-table-5"]["rows"][0] == "Full SAOT"
    for one in listed.values():  # every row is made, or it is said why not
        assert sorted([*one["makes"], *one["cannot"]]) == sorted(one["rows"]) and all(one["cannot"].values())
    code, out, _ = call(capsys, "saot-table-9", "--list")
    assert (
        code == 0 and "  SAOT+Dec\n" in out and "not made: HRDA: another system, whose numbers the paper quotes" in out
    )


def test_a_table_as_text_and_as_json(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "saot-table-11", "--counts", "tiny")
    assert code == 0 and "Training steps" in out and "(paper 14,000)" in out
    assert (tmp_path / "runs" / "reproduce" / "saot-table-11" / "table.html").exists()
    code, out, _ = call(capsys, "saot-table-11", "--counts", "small", "--json", "--out", "table")
    table = json.loads(out)
    assert code == 0 and table["table"] == "saot-table-11" and table["out"] == "table"
    kept = json.loads((tmp_path / "table" / "table.json").read_text())
    assert {key: value for key, value in table.items() if key != "out"} == kept


def test_a_table_with_settings_of_its_own_is_another_table(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["saot-table-11", "--counts", "small", "--json"]
    usual = json.loads(call(capsys, *words)[1])
    own = json.loads(call(capsys, *words, "--set", "transport.tau=inf", "--set", "cost.steps=77")[1])
    assert own["request"]["set"] == ["transport.tau=inf", "cost.steps=77"] and usual["request"]["set"] == []
    assert own["out"].startswith(usual["out"] + "-") and own["out"] != usual["out"]
    told = {each["field"]: each["used"] for each in own["differences_from_paper"]}
    assert told["transport.tau"] == "inf" and told["cost.steps"] == "77" and not set(own["runs"]) & set(usual["runs"])
    code, out, err = call(capsys, *words, "--set", "transport.tau=1", "--out", usual["out"])
    assert code == 2 and out == "" and "with --set transport.tau=1; " in err and "holds no --set" in err
    assert call(capsys, *words, "--out", usual["out"])[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["saot-table-99"], "saot-table-99"),
        ([], "--list"),
        (["saot-table-1", "--source", "folder:a"], "--target"),
        (["saot-table-1", "--counts", "huge"], "huge"),
        (["saot-table-1", "--seeds", "0;1"], "0;1"),
        (["saot-table-11", "--set", "transport.k=0"], "a whole number of 1 or more for transport.k; got '0'"),
        (["saot-table-11", "--set", "transprot.k=1"], "got transprot.k, but --set knows name, transport"),
        (["t2s-da-table-1", "--counts", "tiny", "--set", "transport.k=1"], "got transport.k, but --set knows name"),
        (["gwot-ablation", "--set", "transport.k=1"], "--set is of tables of labelling and adaptation, not of gwot"),
        (["gwot-ablation", "--limit", "2.5"], "expected a whole number, such as 3; got '2.5'"),
        (["saot-table-1", "--size", "big"], "big"),
        (["saot-best", "--columns", "0,total:5"], "total:5"),
        (["saot-best", "--rows", "MLP + EMA", "--rows", "MLP+EMA"], "MLP + points + EMA; Best, no transport"),
        (["saot-table-1", "--backbone", "filterbonk"], "filterbank"),
        (["saot-table-1", "--source", "folder:a", "--target", "folder:b", "--eval", "folder:c"], "missing"),
    ],
)
def test_wrong_input_ends_with_one_sentence_and_code_2(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    assert code == 2 and out == ""
    assert said in err and "Traceback" not in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gwot-spair"], "pass --source spair:PATH:test"),
        (["gwot-ablation", "--source", "nothing:here"], "nothing"),
        (["gwot-ablation", "--seeds", "a"], "expected --seeds as whole numbers"),
        (["gwot-ablation", "--limit", "0"], "the limit is 0"),
        (["soy-labels", "--structure", "deep"], "expected --structure as depth:MODEL"),
        (["soy-labels", "--counts", "huge"], "expected --counts as one of"),
        (["gwot-ablation", "--no-final-norm", "--layers", "3"], "filterbank has neither layers nor a final norm"),
        (["saot-table-11", "--no-final-norm"], "--final-norm is of tables of matching"),
        (["match-sequence"], "pass --source camvid:PATH:day.txt"),
    ],
)
def test_wrong_input_gets_a_sentence(arguments, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["reproduce", *arguments, "--out", str(tmp_path / "out")])
    told = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2 and sentence in told and "Traceback" not in told
