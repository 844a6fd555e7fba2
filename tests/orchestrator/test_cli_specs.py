"""`tandem init`, `schema` and `diff`, as a shell runs them; and that a spec made for tars can be planned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobspecs.load import dumps, load
from jobspecs.schema import json_schema
from orchestrator.absolute_uris import absolute_uris
from orchestrator.cli import app
from orchestrator.prepare import prepare
from tests.orchestrator.conftest import EXAMPLE


def tandem(*arguments: str) -> tuple[int, str]:
    """Exit code, and what was printed."""
    answer = CliRunner().invoke(app, list(arguments))
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
    return answer.exit_code, answer.output


def test_from_tars_to_a_plan(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = tandem("init", "--from-shards", str(digits / "train"), "mine.yaml")
    assert (code, said) == (
        0,
        "mine.yaml: written, and tandem.schema.json for your editor. Next: tandem plan mine.yaml\n",
    )
    plan = prepare(load("mine.yaml"), only_plan=True).plan
    assert (plan.shards, plan.samples, plan.global_batch) == (3, 1077, 128)
    code, said = tandem("init", "--from-shards", str(tmp_path / "nowhere"), "other.yaml")
    assert code == 2
    assert "nowhere/*.tar matches nothing" in said
    code, said = tandem("init", "--from-shards", "a", "digits_clip", "other.yaml")
    assert code == 2
    assert "--from-shards takes one file, not digits_clip and other.yaml. Leave the example out." in said


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = tandem("init")
    assert code == 0
    assert "digits_clip: CLIP from scratch on scikit-learn's scanned digits\n" in said
    assert tandem("init", "digits_clip")[0] == 0
    assert load("digits_clip.yaml") == load(EXAMPLE)
    assert tandem("init", "digits_clip", "other.yaml")[0] == 0
    code, said = tandem("init", "digits_clip")
    assert (code, said) == (2, "tandem: digits_clip.yaml is there already. Give another name, or remove it.\n")
    assert tandem("init", "digits")[0] == 2


def test_the_schema() -> None:
    code, said = tandem("schema")
    assert (code, json.loads(said)) == (0, json_schema())


def test_diff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(EXAMPLE.read_text())
    (tmp_path / "b.yaml").write_text("extends: a.yaml\ntraining: {micro_batch: 8}\nname: b\n")
    (tmp_path / "c.yaml").write_text("extends: b.yaml\nseed: 3\n")
    run = tmp_path / "runs" / "digits-clip"
    run.mkdir(parents=True)
    (run / "spec.yaml").write_text(dumps(absolute_uris(load("a.yaml"))))

    assert tandem("diff", "a.yaml", "a.yaml") == (0, "the specs are the same\n")
    for same in ("digits-clip", "runs/digits-clip", run.as_uri()):
        assert tandem("diff", "a.yaml", same) == (0, "the specs are the same\n"), same
    assert tandem("diff", "a.yaml", "b.yaml") == (
        0,
        "resumable: training.micro_batch: None -> 8\n    the loss is that of the whole batch, in parts of any size\n"
        "cosmetic: name: digits-clip -> b\n"
        "    names the run directory: the same experiment begins anew in one of its own\n"
        "the same experiment; a run goes on with it\n",
    )
    code, said = tandem("diff", "digits-clip", "c.yaml", "-o", "json")
    answer = json.loads(said)
    assert (code, answer["effect"], answer["same_experiment"]) == (0, "another experiment", False)
    assert answer["differences"][1] == {
        "path": "seed",
        "before": 0,
        "after": 3,
        "effect": "another experiment",
        "why": "keys every random draw: order, augmentation, first weights",
    }
    code, said = tandem("diff", "a.yaml", "nothing")
    assert code == 2
    assert said.startswith(f"tandem: nothing is neither a spec nor a run: there is no {run.parent.as_uri()}/nothing/")
    assert "Give a YAML file of this machine, a run directory or its URI, or the name of a run" in said
    code, said = tandem("diff", "a.yaml", (tmp_path / "b.yaml").as_uri())
    assert code == 2, "a URI is that of a run, whatever its end"
    assert f"there is no {tmp_path.as_uri()}/b.yaml/spec.yaml" in said
    (tmp_path / "digits-clip").mkdir()
    assert tandem("diff", "a.yaml", "digits-clip")[0] == 0, "a folder of that name that is no run hides none"
    code, said = tandem("diff", "a.yaml", "nothing.yaml")
    assert (code, "can't be read: No such file" in said) == (2, True)
