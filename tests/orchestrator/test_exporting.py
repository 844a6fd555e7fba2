"""`tandem export`, as a user's shell runs it."""

from __future__ import annotations

import json
from pathlib import Path

from jobspecs.load import loads
from tests.orchestrator.command import tandem
from tests.workers.checkpoints import write_untrained_run
from tests.workers.tiny_job import SPEC
from workers.data.tokenize import byte_tokenizer
from workers.run import RunDirectory


def test_a_run_is_exported_by_name_with_its_scores_into_a_folder_of_its_own(tmp_path: Path) -> None:
    run = tmp_path / "kept" / "tiny"
    write_untrained_run(loads(SPEC % "data"), RunDirectory(f"file://{run}"), {"text": byte_tokenizer()}, steps=(3, 7))
    for step in (3, 7):
        folder = run / "evaluations" / f"step-0000000{step}"
        folder.mkdir(parents=True)
        result = {
            "step": step,
            "evaluation": "held-out",
            "kind": "zero_shot",
            "main": "acc@1",
            "scores": {"acc@1": step / 10},
        }
        (folder / "held-out.json").write_text(json.dumps(result))
        (folder / "damaged.json").write_text(json.dumps(result)[:20])
    out = tmp_path / "out"
    call = ("export", "tiny", str(out), "--format", "safetensors", "--root", str(run.parent))
    answer = tandem(*call)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(f"{out}: safetensors")
    assert answer.stderr == ""
    card = (out / "README.md").read_text()
    assert "acc@1 0.7000" in card
    assert "acc@1 0.3000" not in card
    assert {path.name for path in out.iterdir()} == {"README.md", "config.json", "model.safetensors", "image", "text"}

    answer = tandem(*call)
    assert answer.returncode == 2
    assert answer.stderr == f"tandem: {out} is there already, and not empty. Name another folder, or remove it\n"
