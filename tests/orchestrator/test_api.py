"""Jobs out of Python: the module's own example, and what opens and refuses."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator
from jobspecs.errors import UsageError
from jobspecs.load import load
from orchestrator import Run, api, submit
from tests.orchestrator.conftest import EXAMPLE, TINY


@pytest.mark.ray
def test_the_example_of_the_docstring(
    ray_cluster: None, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = EXAMPLE.read_text().replace("data/digits", str(digits))
    (tmp_path / "digits_clip.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    given = Run.from_spec
    monkeypatch.setattr(Run, "from_spec", lambda spec, *overrides: given(spec, *overrides, *TINY))
    example = doctest.DocTestParser().get_doctest(str(api.__doc__), {}, "orchestrator.api", api.__file__, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    told: list[str] = []
    runner.run(example, out=told.append, clear_globs=False)
    assert runner.failures == 0, "".join(told)


def test_a_run_that_was_opened_is_for_reading(tmp_path: Path) -> None:
    run = Run.open(tmp_path)
    with pytest.raises(UsageError, match=r"opened by its directory, to be read\. Run\.from_spec makes one to run"):
        run.plan()
    for read in (run.status, run.metrics, run.results, run.report):
        with pytest.raises(UsageError, match="holds no run"):
            read()


def test_a_run_of_a_spec_is_where_its_storage_says(tmp_path: Path) -> None:
    spec = load(EXAMPLE, (f"storage.root={tmp_path}",))
    assert Run.from_spec(spec).uri == f"file://{tmp_path}/digits-clip"
    assert Run.from_spec(EXAMPLE, f"storage.root={tmp_path}", "name=x").uri == f"file://{tmp_path}/x"
    with pytest.raises(UsageError, match="overrides are for a spec's file"):
        Run.from_spec(spec, "name=x")


def test_a_job_is_submitted_to_a_cluster_that_is_there() -> None:
    with pytest.raises(UsageError, match="there is no Ray cluster at"):
        submit(EXAMPLE, address="http://127.0.0.1:9")


def test_the_package_loads_nothing_before_it_is_asked() -> None:
    program = (
        "import sys, orchestrator\n"
        "print(sorted({'torch', 'ray', 'numpy', 'boto3', 'pydantic', 'rich'} & set(sys.modules)))\n"
        "from orchestrator import Run\n"
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines() == ["[]", "[]"]
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        orchestrator.nonsense  # type: ignore[attr-defined]  # noqa: B018
