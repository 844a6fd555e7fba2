"""What the pages show is what is there: each fenced command and each YAML block of every page is run, or checked as far
as it goes without a cluster, a cloud or minutes. A line that no rule covers fails.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

from jobspecs import evaluation, scores
from jobspecs.base import defaults
from jobspecs.data import Data
from jobspecs.errors import UsageError
from jobspecs.evaluation import _Evaluation
from jobspecs.load import load, loads
from jobspecs.objective import TextInfoNCE, _Objective
from jobspecs.starters import starter
from jobspecs.storage import S3
from orchestrator.cli import app
from orchestrator.command import with_workers
from orchestrator.evaluate import score
from orchestrator.from_shards import spec_for
from tests.pages import PAGES, ROOT, Block, blocks_of, header_of, spans_of
from tests.workers.storage import test_store
from tests.workers.tiny_job import SPEC, scans, write_shards
from workers import objectives
from workers.data.demo import DEMOS
from workers.data.tokenize import byte_tokenizer
from workers.evaluate import KINDS
from workers.evaluate.encode import Encoder
from workers.losses.pairs import gather_pairs
from workers.models.build import build
from workers.storage import Storage, absolute
from workers.storage.schemes import BACKENDS
from workers.train.step import _loss

README = (ROOT / "README.md").read_text()
CLI = typer.main.get_command(app)
EXAMPLES = sorted((ROOT / "jobspecs" / "examples").glob("*.yaml"))

BUCKET = {"s3://my-bucket/": "data/"}
"""A bucket of the pages, and the folder that a page copies into it."""
VARIABLES = {"S3_ENDPOINT": "http://127.0.0.1:9000", "DASHBOARD": "http://127.0.0.1:8265"}
"""What pages set, or deploy/local/cluster.py writes into build/local/env, such as it may be."""
SOURCED = {"build/local/env": ("deploy/local/cluster.py", '(FOLDER / "env"')}
"""Files that a page's earlier commands make, by what in them does so."""
KUBECTL = (["apply", "-f", "-"], ["get", "rayjob"], ["create", "secret", "generic"], ["port-forward"])
SEEN_ELSEWHERE = {"tandem validate job.yaml"}
"""Commands whose output a test of its own holds to the page."""


# --- the rules: the words behind the name of the program -> nothing, or an AssertionError ---------------


def check_tandem(words: list[str]) -> None:
    """Parsed by the program itself; then run where that is a matter of a second, else its spec is read."""
    name, parameters = parsed(words)
    match name:
        case "validate" | "diff" | "schema":
            run(words)
        case "render kubernetes":
            assert len(list(yaml.safe_load_all(run(words)))) == 3
        case "init" if parameters["from_shards"]:
            urls = [here(url) for url in parameters["from_shards"]]
            Path(parameters["example"] or "job.yaml").write_text(spec_for(urls, S3(endpoint=parameters["endpoint"])))
        case "init":
            run(words)
        case "data" if parameters["kind"] == "digits":
            run(words)
        case "data":
            assert parameters["kind"] in DEMOS
        case _ if isinstance(parameters.get("spec"), Path):
            load(parameters["spec"], with_workers(parameters.get("overrides") or [], parameters.get("workers")))


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """A command of `tandem`, and its parameters by name."""
    command, rest, names = CLI, words, []
    while hasattr(command, "commands"):
        assert rest[:1], "a command of a group is missing"
        assert rest[0] in command.commands, f"tandem has no command {rest[0]!r}"
        names.append(rest[0])
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        context = command.make_context(" ".join(names), list(rest))
    except Exception as error:  # typer brings a click of its own
        told = error.format_message() if hasattr(error, "format_message") else error
        raise AssertionError(f"tandem {' '.join(names)}: {told}") from error
    return " ".join(names), context.params


def run(words: list[str]) -> str:
    """What it prints."""
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def here(url: str) -> str:
    for bucket, folder in BUCKET.items():
        url = url.replace(bucket, folder)
    return url


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    assert set(words) <= set(targets)


def check_python(words: list[str]) -> None:
    """A module that is there, or a file of the repository that knows the word behind it."""
    if words[0] == "-m":
        assert find_spec(words[1]) is not None
        return
    source = Path(words[0]).read_text()
    assert len(words) == 1 or f'case ["{words[1]}"' in source, words[1]


def check_source(words: list[str]) -> None:
    (path,) = words
    maker, how = SOURCED[path]
    assert how in (ROOT / maker).read_text()


def check_export(words: list[str]) -> None:
    assert all(re.match("[A-Z_0-9]+=.", word) for word in words)


def check_tar(words: list[str]) -> None:
    """Run, on a folder with one sample; a job finds it."""
    picture = io.BytesIO()
    Image.new("RGB", (40, 40)).save(picture, "JPEG")
    folder = Path(words[words.index("-C") + 1])
    folder.mkdir()
    for number in range(2):
        (folder / f"{number:06}.jpg").write_bytes(picture.getvalue())
        (folder / f"{number:06}.txt").write_text("a pet")
    subprocess.run(["tar", *words], check=True)
    spec = spec_for([words[words.index("-cf") + 1]], S3())
    assert "kind: image_text" in spec
    assert "over 2 samples" in spec


def check_docker(words: list[str]) -> None:
    assert words[0] == "build"
    arguments = re.findall(r"^ARG (\w+)", Path(words[words.index("-f") + 1]).read_text(), re.MULTILINE)
    assert words[words.index("--build-arg") + 1].partition("=")[0] in arguments


def check_kubectl(words: list[str]) -> None:
    assert any(words[: len(known)] == known for known in KUBECTL)


def check_rclone(words: list[str]) -> None:
    """The one that tests/deploy/test_local.py runs, of a folder that is there."""
    copy, folder, remote = words
    assert copy == "copy"
    assert Path(folder).is_dir()
    assert re.fullmatch(r":s3,provider=Other,env_auth,endpoint='http://[\w.:]+':[\w/-]+", remote)


def check_moto(words: list[str]) -> None:
    """As deploy/local/cluster.py starts it."""
    assert words[::2] == ["--host", "--port"]


def check_aws(words: list[str]) -> None:
    """`aws s3 cp FILE s3://…`, of a file that an earlier command made."""
    assert words[:2] == ["s3", "cp"]
    assert Path(words[2]).exists()
    assert words[3].startswith("s3://")


RULES: dict[str, Callable[[list[str]], None]] = {
    "aws": check_aws,
    "docker": check_docker,
    "export": check_export,
    "kubectl": check_kubectl,
    "make": check_make,
    "moto_server": check_moto,
    "python": check_python,
    "rclone": check_rclone,
    "source": check_source,
    "tandem": check_tandem,
    "tar": check_tar,
}
"""How a command is checked, by its program."""


# --- blocks ---------------------------------------------------------------------------------------------


def check_block(block: Block) -> None:
    match block.language:
        case "bash" | "console":
            for place, words in block.commands():
                assert words[0] in RULES, f"{place}: no rule of {__name__} covers {words[0]!r}"
                if " ".join(words) in SEEN_ELSEWHERE:
                    continue
                try:
                    RULES[words[0]]([with_variables(word) for word in words[1:]])
                except Exception as error:
                    raise AssertionError(f"{place}: {error}") from error
        case "yaml":
            check_yaml(block)
        case "python":
            ast.parse(block.text)
        case "text" | "mermaid":
            pass
        case other:
            raise AssertionError(f"{block.place}: no rule covers a block of the language {other!r}")


def check_yaml(block: Block) -> None:
    """A file that its first line names (`# job.yaml`), which later commands find; a whole spec; or sections, which
    have to fit one of the examples."""
    named = re.match(r"# (\w+\.yaml)\n", block.text)
    path = Path(named[1] if named else "block.yaml")
    path.write_text(block.text)
    try:
        if named or "apiVersion:" in block.text:
            load(path)
        else:
            check_sections(block.text)
    except Exception as error:
        raise AssertionError(f"{block.place}: {error}") from error


def check_sections(text: str) -> None:
    faults = []
    for example in EXAMPLES:
        Path("sections.yaml").write_text(f"extends: {example}\n{text}")
        try:
            load("sections.yaml")
        except Exception as error:
            faults.append(f"{example.stem}: {error}")
        else:
            return
    raise AssertionError("\n".join(["it fits no example", *faults]))


def with_variables(word: str) -> str:
    return re.sub(r"\$(\w+)", lambda name: VARIABLES[name[1]], word)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: as the root of the repository, but for what commands write."""
    for name in ("deploy", "jobspecs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- tests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_specs_of_a_page_are_right(page: str, folder: Path) -> None:
    for block in blocks_of(page):
        check_block(block)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_commands_at_the_top_of_an_example_are_right(example: Path, folder: Path) -> None:
    block = header_of(example)
    assert len(list(block.commands())) >= 2
    check_block(block)


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("bash", "frobnicate all", "no rule of .* covers 'frobnicate'"),
        ("", "make demo", "a block of the language ''"),
        ("bash", "tandem trian job.yaml", "tandem has no command 'trian'"),
        ("bash", "tandem plan jobspecs/examples/digits_clip.yaml --worker 3", "--worker"),
        ("bash", "tandem run jobspecs/examples/digits_clip.yaml --set training.stepz=3", "unknown key 'stepz'"),
        ("bash", "tandem run nowhere.yaml", "nowhere.yaml"),
        ("bash", "X=1 make demo && make tea  # soon", "tea"),
        ("console", "$ tandem eval\nno output", "MODEL"),
        ("bash", "tandem status a --root $ROOT", "ROOT"),
        ("bash", "python deploy/local/cluster.py sideways", "sideways"),
        ("yaml", "training: {stepz: 3}\n", "unknown key 'stepz'"),
        ("yaml", "# job.yaml\nname: a\n", "objective"),
        ("python", "def", "invalid syntax"),
    ],
)
def test_what_is_wrong_is_found(language: str, text: str, message: str, folder: Path) -> None:
    with pytest.raises((AssertionError, SyntaxError), match=message):
        check_block(Block("page.md:1", language, text))


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_the_text_exist(page: str) -> None:
    """`tandem plan --workers` in a sentence: the command, and its options."""
    for span in spans_of(page):
        words = span.split()
        if words[0] != "tandem" or len(words) == 1 or not words[1].isalpha():
            continue
        command = CLI.commands[words[1]]
        if hasattr(command, "commands") and len(words) > 2 and words[2] in command.commands:
            command = command.commands[words[2]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert set(re.findall(r"(?<!\w)--?[a-z][a-z-]*", span)) <= known, span


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            linked = file.read_text()
            titles = re.findall(r"^#+ (.*)$", linked, re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors | set(re.findall(r'<a id="(\w+)">', linked)), target


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    for span in spans_of(page):
        if re.fullmatch(r"(jobspecs|workers|orchestrator|deploy|tests)/[\w/.]+", span):
            assert (ROOT / span).exists(), span


def test_the_spec_in_the_readme_is_the_example() -> None:
    (block,) = [block for block in blocks_of("README.md") if block.language == "yaml"]
    assert block.text == starter("digits_clip")


def test_the_faults_in_the_readme_are_those_that_are_told(folder: Path) -> None:
    text = (ROOT / "jobspecs" / "examples" / "digits_clip.yaml").read_text()
    for right, wrong in (
        ("global_batch: 128", "global_batch: lots"),
        ("{every_steps: 100}", "{evry_steps: 100}"),
        ("kind: zero_shot", "kind: zeroshot"),
    ):
        assert right in text
        text = text.replace(right, wrong)
    Path("job.yaml").write_text(text)
    answer = CliRunner().invoke(app, ["validate", "job.yaml"])
    assert answer.exit_code == 2
    (shown,) = re.findall(r"\$ tandem validate job\.yaml\n(.*?)```", README, re.DOTALL)
    assert answer.output == shown


def test_the_commands_in_the_readme_are_those_of_the_program() -> None:
    table = re.findall(r"^\| `tandem (\w+)", README, re.MULTILINE)
    assert sorted(table) == sorted(CLI.commands)


# --- the examples of the contributors' page -------------------------------------------------------------


def example(name: str, **names: Any) -> Any:
    """What an example of CONTRIBUTING.md defines under this name; `names` are there already."""
    (block,) = [
        block for block in blocks_of("CONTRIBUTING.md") if re.search(rf"^(def|class) {name}\b", block.text, re.M)
    ]
    exec(compile(block.text, block.place, "exec"), names)
    return names[name]


class Paraphrases(_Objective):
    kind: Literal["paraphrases"]
    loss: TextInfoNCE = defaults(TextInfoNCE, kind="infonce", direction="both")


class Separation(_Evaluation):
    kind: Literal["separation"]


def test_the_objective_of_the_contributors_page_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loss is the cross-entropy in both directions, without equal texts among the negatives."""
    paraphrases = example("_paraphrases", **vars(objectives), Paraphrases=Paraphrases)
    monkeypatch.setitem(objectives.OBJECTIVES, Paraphrases, paraphrases)
    section = Paraphrases(kind="paraphrases")
    data = Data.model_validate({"sources": [{"name": "a", "urls": ["a.tar"]}], "query": {}, "document": {}})
    contrast = objectives.contrast_of(section, data, lambda side: True)
    assert contrast.trained == {"query", "document"}

    A, G = F.normalize(torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0)), dim=2)
    keys = torch.tensor([[1, 5], [2, 6], [3, 5], [4, 8]])  # of queries and documents: those of 0 and 2 are equal
    pairs = gather_pairs(torch.ones(4, dtype=torch.bool), keys=keys)
    loss, _ = _loss(contrast, A, G, torch.tensor(10.0), None, pairs, measure=False)
    logits = 10 * A @ G.T
    logits[[0, 2], [2, 0]] = -torch.inf
    expected = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    torch.testing.assert_close(loss, expected)


def test_the_evaluation_of_the_contributors_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "Separation", Separation, raising=False)
    names_of = scores.score_names
    monkeypatch.setattr(
        scores, "score_names", lambda each, data: ("separation",) if each.kind == "separation" else names_of(each, data)
    )
    monkeypatch.setitem(KINDS, "separation", example("separation"))

    write_shards(tmp_path / "data", list(scans()[:12]), shards=1)
    spec, tokenizers = loads(SPEC % (tmp_path / "data")), {"text": byte_tokenizer()}
    model = build(spec.model, spec.data, spec.objective, 0, tokenizers)
    urls = [f"{tmp_path}/data/*.tar"]
    section = Separation.model_validate({"kind": "separation", "name": "pairs", "data": {"urls": urls}})
    encoder = Encoder(spec.data, Storage(), tokenizers, model)
    result = score(section, encoder, 3, "file:///checkpoint").result

    images = encoder.images(urls, "txt", 256)
    captions = sorted({text.decode() for text in images.column})
    texts = dict(zip(captions, encoder.texts(captions, 256), strict=True))
    margins = [
        image @ texts[text.decode()] - np.mean([image @ each for each in texts.values()])
        for image, text in zip(images.features, images.column, strict=True)
    ]
    assert result.scores == {"separation": pytest.approx(np.mean(margins), abs=1e-6)}
    assert (result.main, result.higher_is_better, result.samples) == ("separation", True, 12)


def test_the_storage_of_the_contributors_page_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does what test_store.py asks of the others."""
    store = example("MemoryStore")
    monkeypatch.setitem(BACKENDS, "memory", lambda *_: store())
    assert absolute("memory://bucket/run/") == "memory://bucket/run"
    with pytest.raises(UsageError, match=r"s3://bucket/key or memory://bucket/key"):
        absolute("gs://bucket/run")
    checks = [
        test_store.test_write_stat_read,
        test_store.test_write_replaces_and_changes_the_etag,
        test_store.test_empty_object,
        test_store.test_odd_names,
        test_store.test_list,
        test_store.test_an_object_that_is_not_the_known_one,
        test_store.test_a_known_object_that_is_gone,
        test_store.test_a_known_object_that_has_moved,
        test_store.test_conditional_write,
        test_store.test_delete,
    ]
    for number, check in enumerate(checks):
        check((Storage(), f"memory://bucket/{number}"))
    for number, method in enumerate(("stat", "read", "open")):
        test_store.test_missing((Storage(), f"memory://missing/{number}"), method, "folder")


def test_the_tracker_of_the_contributors_page_works(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = example("Lines")(SimpleNamespace(spec=SimpleNamespace(name="digits")), "key")
    tracker.event({"event": "run_started"})
    tracker.steps([{"step": 3, "loss": 1.5}])
    tracker.close()
    assert capsys.readouterr().err == "digits 3 1.5\n"
