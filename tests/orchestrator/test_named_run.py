"""What a user calls a run, beside a folder of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.named_run import named_run


@pytest.mark.parametrize(
    ("folder", "root", "found"),
    [
        ("the data", "s3://bucket/runs", "s3://bucket/runs/pets"),
        ("the data", "runs", "pets"),
        ("the data, and there is a run", "runs", "runs/pets"),
        ("a run", "runs", "pets"),
        ("a run", "s3://bucket/runs", "pets"),
    ],
)
def test_a_folder_is_meant_where_it_is_a_run_or_the_root_has_none(
    folder: str, root: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    if folder == "a run":
        (tmp_path / "pets" / "spec.yaml").touch()
    if folder == "the data, and there is a run":
        (tmp_path / "runs" / "pets").mkdir(parents=True)
        (tmp_path / "runs" / "pets" / "spec.yaml").touch()
    expected = found if found.startswith("s3://") else f"file://{tmp_path}/{found}"
    assert named_run("pets", root).uri == expected
