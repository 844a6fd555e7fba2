"""The command line: exit codes, messages that name the place and the remedy, JSON that scripts rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobspecs.errors import UnreachableError
from orchestrator import cli_start
from orchestrator.driver import Driver
from orchestrator.ledger import Ledger, State, Status
from tests.orchestrator.command import set_flags, tandem
from tests.orchestrator.conftest import EXAMPLE, overrides

NO_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "",
    "AWS_SECRET_ACCESS_KEY": "",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_CONFIG_FILE": "/nonexistent",
}
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret"}

S3_DATA = ("data.sources.0.urls=['s3://bucket/00000.tar']", "storage.s3.region=us-east-1")

BAD = {
    "unknown key": (
        ("training.global_bach=64",),
        {},
        ["--set training.global_bach: unknown key", "Did you mean 'global_batch'?"],
    ),
    "wrong type": (
        ("training.global_batch=many",),
        {},
        ["--set training.global_batch: should be", 'given: "many"'],
    ),
    "batch larger than the data": (
        ("training.global_batch=2048",),
        {},
        ["training.global_batch 2048", "1437 samples", "Lower the batch to 1437"],
    ),
    "missing shards": (
        ("data.sources.0.urls=['{data}/train/{{00003..00005}}.tar']",),
        {},
        ["2 of 3 shards do not exist", "00004.tar", "00005.tar", "Check the urls"],
    ),
    "missing evaluation data": (
        ("evaluations.0.data.urls=['{data}/nowhere/*.tar']",),
        {},
        ["nowhere/*.tar matches nothing", "Check the folder"],
    ),
    "a run directory that can't be written": (
        ("storage.root=/proc/nowhere",),
        {},
        ["the run directory can't be used", "/proc/nowhere", "Check the path"],
    ),
    "a cluster that is not there": (
        (),
        {"RAY_ADDRESS": "127.0.0.1:9"},
        ["there is no Ray cluster at RAY_ADDRESS=127.0.0.1:9"],
    ),
    "GPUs that are not there": (("cluster.gpus_per_worker=1",), {}, ["2 workers need 2 GPUs, the cluster has 0"]),
    "more workers than lanes": (("cluster.workers=17",), {}, ["17", "16 lanes", "data.lanes"]),
    "unreachable endpoint": (
        (*S3_DATA, "storage.s3.endpoint=http://127.0.0.1:9"),
        CREDENTIALS,
        ["http://127.0.0.1:9", "storage.s3.endpoint"],
    ),
    "no credentials": (
        (*S3_DATA, "storage.s3.endpoint=http://127.0.0.1:9"),
        NO_CREDENTIALS,
        ["s3://bucket/00000.tar", "AWS_ACCESS_KEY_ID"],
    ),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.ray if "GPU" in case else ()) for case in BAD])
def test_a_bad_spec_starts_nothing_and_says_what_to_do(case: str, digits: Path, tmp_path: Path) -> None:
    more, environment, expected = BAD[case]
    more = tuple(item.replace("{data}", str(digits)).replace("{{", "{").replace("}}", "}") for item in more)
    answer = tandem("run", str(EXAMPLE), *set_flags(overrides(digits, tmp_path, *more)), env=environment)

    assert answer.returncode == 2, answer.stdout + answer.stderr
    for text in expected:
        assert text in answer.stderr
    assert "Traceback" not in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_spec_with_faults_names_file_and_line(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(EXAMPLE.read_text().replace("global_batch: 128", "global_batch: -1").replace("seed:", "sed:"))
    answer = tandem("validate", str(spec))
    assert answer.returncode == 2
    lines = spec.read_text().splitlines()
    batch = next(number for number, line in enumerate(lines, 1) if "global_batch" in line)
    column = lines[batch - 1].index("-1") + 1
    assert f"{spec}:{batch}:{column} (training.global_batch)" in answer.stderr
    assert f"{batch} | {lines[batch - 1]}" in answer.stderr
    assert "unknown key 'sed'" in answer.stderr
    assert "2 faults" in answer.stderr


def test_validate_says_that_a_spec_is_valid() -> None:
    answer = tandem("validate", str(EXAMPLE))
    assert answer.returncode == 0
    assert "valid (digits-clip" in answer.stdout


def test_the_module_is_the_command_too() -> None:
    command = [sys.executable, "-m", "orchestrator.cli", "validate", str(EXAMPLE)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "valid (digits-clip" in answer.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--help", "plan"], ["--debug", "--help"]])
def test_help_lists_all_commands(arguments: list[str]) -> None:
    """Where one is called, the others are not made."""
    assert {"validate", "plan", "run", "render"} <= set(tandem(*arguments).stdout.split())


def test_a_command_that_is_not_there() -> None:
    assert "No such command 'vlaidate'" in tandem("vlaidate").stderr


@pytest.mark.parametrize("arguments", [["--help"], ["validate", str(EXAMPLE)], ["schema"], ["init"]])
def test_what_needs_the_language_alone_imports_neither_torch_nor_ray(arguments: list[str]) -> None:
    program = (
        "import sys; from orchestrator.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'ray', 'deepspeed', 'transformers', 'boto3', 'numpy'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_a_traceback_is_shown_to_those_who_ask_for_it(tmp_path: Path) -> None:
    wrong = ("status", str(tmp_path))
    for answer in (tandem("--debug", *wrong), tandem(*wrong, env={"TANDEM_DEBUG": "1"})):
        assert answer.returncode == 2
        assert "Traceback" in answer.stderr
        assert answer.stderr.splitlines()[-1].startswith("tandem: ")
    for none in ({}, {"TANDEM_DEBUG": "0"}):
        assert "Traceback" not in tandem(*wrong, env=none).stderr


def test_the_shell_is_told_how_to_complete() -> None:
    script = tandem("--show-completion", "bash", env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    assert "_TANDEM_COMPLETE=complete_bash" in script.stdout
    line = {"_TANDEM_COMPLETE": "complete_bash", "COMP_WORDS": "tandem do", "COMP_CWORD": "1"}
    assert tandem(env=line).stdout.split() == ["doctor"]


def test_quiet_and_json_contradict_each_other() -> None:
    answer = tandem("run", str(EXAMPLE), "--quiet", "-o", "json")
    assert answer.returncode == 2
    assert "Choose one" in answer.stderr


def test_the_doctor_tells_findings_and_fails_where_one_does(tmp_path: Path) -> None:
    job = (str(EXAMPLE), "--set", f"storage.root={tmp_path}")
    found = tandem("doctor", *job, "-o", "json", "--address", "http://127.0.0.1:9")
    assert found.returncode == 1, found.stderr
    levels = {finding["check"]: finding["level"] for finding in json.loads(found.stdout)}
    assert levels["ray cluster"] == "fail"
    assert levels["torch"] == levels["storage"] == levels["storage conditions"] == "ok"
    table = tandem("doctor", *job)
    assert "can be written" in table.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_call_has_exit_code_2() -> None:
    assert tandem("run").returncode == 2
    assert tandem("nonsense").returncode == 2
    assert tandem("run", "nowhere.yaml").returncode == 2


@pytest.mark.parametrize(("state", "code"), [(State.SUCCEEDED, 0), (State.INTERRUPTED, 130)])
def test_the_exit_code_of_a_run_is_how_it_ended_whether_or_not_its_record_can_be_read(
    state: State,
    code: int,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def away(ledger: Ledger) -> Status:
        raise UnreachableError("the run directory gave no answer")

    monkeypatch.setattr(Driver, "run", lambda driver: state)
    monkeypatch.setattr(Ledger, "status", away)
    with pytest.raises(SystemExit) as end:
        cli_start.run(EXAMPLE, overrides=list(overrides(digits, tmp_path)))
    assert end.value.code == code
    assert capsys.readouterr().err == "tandem: the run directory gave no answer\n"


def test_plan_as_json(digits: Path, tmp_path: Path) -> None:
    flags = set_flags(overrides(digits, tmp_path))
    answer = tandem("plan", str(EXAMPLE), "--workers", "3", "-o", "json", *flags)
    assert answer.returncode == 0, answer.stderr
    plan = json.loads(answer.stdout)
    assert plan["shards"] == 4
    assert plan["samples"] == 1437
    assert plan["samples_per_pass"] == 11 * 128
    assert plan["total_steps"] == 350
    assert plan["lanes"] == 16
    assert plan["workers"] == 3
    assert plan["rows_per_rank"] == 48
    assert plan["padding_rows"] == 3 * 48 - 128
    assert plan["checkpoint_steps"] == [100, 200, 300, 350]
    assert list(tmp_path.iterdir()) == []


def test_plan_as_table(digits: Path, tmp_path: Path) -> None:
    answer = tandem("plan", str(EXAMPLE), "--samples-per-second", "2000", *set_flags(overrides(digits, tmp_path)))
    assert "1,437; a pass takes 1,408 of them" in answer.stdout
    assert "2,000 samples/s need" in answer.stdout


@pytest.mark.parametrize("command", ["status", "metrics"])
def test_a_folder_without_a_run(command: str, tmp_path: Path) -> None:
    answer = tandem(command, str(tmp_path))
    assert answer.returncode == 2
    assert "holds no run" in answer.stderr


def test_data_writes_tars_and_refuses_unknown_kinds(tmp_path: Path) -> None:
    assert tandem("data", "digits", str(tmp_path / "digits")).returncode == 0
    assert (tmp_path / "digits" / "train" / "00000_stats.json").exists()
    wrong = tandem("data", "digit", str(tmp_path / "wrong"))
    assert wrong.returncode == 2
    assert "digits" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("index", "x.tar", "--name", "Foo"), "--name: should be 1 to 63 lower-case letters"),
        (("index", "x.tar", "--endpoint", "minio:9000"), "--endpoint: should be http:// or https://"),
        (("status", "s3://b/run", "--endpoint", "minio:9000"), "--endpoint: should be http:// or https://"),
    ],
)
def test_an_option_that_is_no_value_of_its_field(arguments: tuple[str, ...], message: str) -> None:
    answer = tandem(*arguments)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"tandem: {message}")
