"""No spec, tar, checkpoint, model or index can make Tandem run code, and no secret comes out of it.

What is hostile to one part alone is told beside that part: aliases of YAML (test_yaml_places.py), pickles in tars
(test_row_maker.py), weights that are pickled (test_architectures.py).
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from jobspecs.errors import DataError, SpecError, UsageError
from jobspecs.load import load
from jobspecs.model import ImageConfig, ImagePretrained
from tests.orchestrator.command import set_flags
from tests.orchestrator.conftest import EXAMPLE, TINY, digits_spec, overrides
from tests.workers.data.tars import tar_of
from tests.workers.pretrained_folders import bert_like
from workers.data.decode import DecodeError, decode_views
from workers.data.demo import write_demo
from workers.data.index_file import from_parquet
from workers.data.make_tokenizer import pretrained
from workers.data.tar import tar_samples
from workers.models.architecture import architecture_of
from workers.storage import Storage
from workers.train.checkpoint import FORMAT, CheckpointError, File, Manifest, read_manifest

ROOT = Path(__file__).parents[1]


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture
def touched(tmp_path: Path) -> Iterator[Path]:
    """A file that is there at the end if code was run."""
    path = tmp_path / "touched"
    yield path
    assert not path.exists(), "code was run"


# --- the sources --------------------------------------------------------------------------------------

_NEVER_IMPORTED = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
_OWN_BYTES = {"orchestrator/controller.py", "orchestrator/crew.py", "orchestrator/rank.py"}
"""They carry the driver's own task to its ranks, and their errors back, as Ray carries everything."""
_NEVER_CALLED = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "numpy.load", "np.load"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "runpy.run_path", "importlib.import_module"),
}
_NEVER_A_METHOD = {"extractall", "extract"}


def _sources() -> Iterator[tuple[str, ast.AST]]:
    for package in ("jobspecs", "workers", "orchestrator", "deploy"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def test_nothing_in_the_sources_turns_data_into_code() -> None:
    found = [
        f"{path}:{node.lineno}: {fault}"  # type: ignore[attr-defined]
        for path, tree in _sources()
        for node in ast.walk(tree)
        if (fault := _fault(path, node))
    ]
    assert not found


def _fault(path: str, node: ast.AST) -> str:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        bad = {name.split(".")[0] for name in names} & _NEVER_IMPORTED
        return f"imports {bad}" if bad and path not in _OWN_BYTES else ""
    if not isinstance(node, ast.Call):
        return ""
    name = ast.unparse(node.func)
    if "cloudpickle" in name.split("."):
        return "" if path in _OWN_BYTES else f"calls {name}"
    if name in _NEVER_CALLED or name.rpartition(".")[2] in _NEVER_A_METHOD:
        return f"calls {name}"
    for keyword in node.keywords:
        value = keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
        if keyword.arg in ("trust_remote_code", "allow_pickle", "shell") and value is not False:
            return f"{keyword.arg}={ast.unparse(keyword.value)}"
        if keyword.arg in ("use_safetensors", "weights_only") and value is not True:
            return f"{keyword.arg}={ast.unparse(keyword.value)}"
    if name.endswith("from_pretrained"):
        given = {keyword.arg for keyword in node.keywords}
        return "" if "trust_remote_code" in given else f"{name} without trust_remote_code=False"
    return ""


def test_the_search_finds_what_it_looks_for() -> None:
    for line in ("import pickle", "eval(x)", "t.extractall()", "f(shell=True)", "A.from_pretrained(x)", "f(shell=y)"):
        (node,) = [node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call | ast.Import)]
        assert _fault("x.py", node), line


# --- specs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("name=../../etc", "should be 1 to 63 lower-case letters"),
        ("name=a/b", "should be 1 to 63 lower-case letters"),
        ("evaluations.0.name=../../../x", "should be 1 to 63 lower-case letters"),
        ("data.sources.0.name=../x", "should be 1 to 63 lower-case letters"),
        ("model.image={kind: config, architecture: vit, settings: {_attn_implementation: a/b}}", "none of the fields"),
        ("model.image={kind: pretrained, name: a/b, trust_remote_code: true}", "unknown key 'trust_remote_code'"),
        ("data.text.tokenizer={kind: pretrained, name: a/b, trust_remote_code: true}", "unknown key"),
        ("deepspeed={csv_monitor: {enabled: true, output_path: /etc}}", "'csv_monitor' is not passed on"),
        ("deepspeed={torch_autocast: {lower_precision_safe_modules: [evil.module.X]}}", "is not passed on"),
        ("deepspeed={flops_profiler: {enabled: true, output_file: /etc/x}}", "DeepSpeed writes no files of its own"),
        ("deepspeed={zero_optimization: {offload_param: {device: nvme, nvme_path: /etc}}}", "DeepSpeed writes no"),
        ("deepspeed={zero_optimization: {zero_quantized_weights: true}}", "zero_quantized_weights is not supported"),
        ("seed=!!python/object/apply:os.system [true]", "the tag !!python/object/apply:os.system has no meaning"),
    ],
)  # fmt: skip
def test_hostile_specs_are_refused(override: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        load(EXAMPLE, (override,))


@pytest.mark.parametrize("key", ["trust_remote_code", "auto_map", "attn_implementation", "experts_implementation"])
def test_settings_of_an_architecture_reach_no_code(key: str) -> None:
    """The key is no field of transformers' configuration, so it is refused."""
    section = ImageConfig(kind="config", architecture="vit", settings={key: "evil/code"})
    with pytest.raises(UsageError, match=f"has no field '{key}'"):
        architecture_of(section, "model.image", "image")


# --- models and tokenizers ----------------------------------------------------------------------------


@pytest.fixture
def evil_model(tmp_path: Path, touched: Path) -> Path:
    """The folder of a small model with code of its own beside its config."""
    import transformers

    folder = tmp_path / "evil"
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(folder)
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(touched)!r}).touch()\n")
    return folder


@pytest.mark.parametrize(
    "hostile",
    [
        {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}},
        {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"},
        {"_attn_implementation": "evil/attention"},
        {"attn_implementation": "evil/attention"},
        {"attn_implementation": "flash_attention_2"},
        {"experts_implementation": "evil/experts"},
    ],
)
def test_a_checkpoints_config_runs_no_code(evil_model: Path, hostile: dict[str, Any]) -> None:
    path = evil_model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | hostile))
    section = ImagePretrained(kind="pretrained", name=str(evil_model))
    with pytest.raises(UsageError, match=r"model\.image\.name: "):
        architecture_of(section, "model.image", "image").make()


def test_a_tokenizer_runs_no_code(tmp_path: Path, touched: Path) -> None:
    folder = bert_like(tmp_path / "tokenizer")
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(touched)!r}).touch()\n")
    path = folder / "tokenizer_config.json"
    hostile = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    path.write_text(json.dumps(json.loads(path.read_text()) | hostile))
    with contextlib.suppress(UsageError):  # refused, or loaded by transformers' own class
        pretrained(str(folder), None)


# --- tars, checkpoints, indexes -----------------------------------------------------------------------


def test_members_of_a_tar_never_become_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    names = ["../../up.jpg", "/absolute.jpg", str(tmp_path / "named.jpg"), "a/../../b.jpg"]
    tar = io.BytesIO(tar_of([(name, b"x") for name in names]))
    with tarfile.open(fileobj=tar, mode="a") as file:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = kind, "/etc/passwd"
            file.addfile(link)
    tar.seek(0)
    samples = list(tar_samples(tar, {"jpg"}))
    assert [sample.members for sample in samples] == [{"jpg": b"x"}] * len(names), "links hold nothing"
    assert list(tmp_path.rglob("*")) == [folder]


def test_an_image_is_given_to_no_other_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript, which Pillow would hand to Ghostscript."""
    import numpy as np

    from jobspecs.columns import Image

    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail("a program was started"))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%id) (w) file\n%%EOF\n"
    with pytest.raises(DecodeError):
        decode_views(script, Image(size=8), None, np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("name", ["../../../secret.safetensors", "/etc/passwd", "model.pt", "a/b.safetensors", ""])
def test_a_manifest_names_files_of_its_checkpoint_only(name: str, tmp_path: Path) -> None:
    manifest = Manifest(1, "", "", 0, 1, 1, {}, (File(name, 1, ""),))
    assert manifest.format == FORMAT
    (tmp_path / "manifest.json").write_bytes(manifest.to_json())
    with pytest.raises(CheckpointError, match="no file of a checkpoint"):
        read_manifest(Storage(), f"file://{tmp_path}")


def test_weights_are_never_unpickled(tmp_path: Path, touched: Path) -> None:
    from workers.train.checkpoint import load_model

    module = torch.nn.Linear(1, 1)
    content = pickle.dumps({"weight": Touch(touched)})
    file = File("model-a00001-r00000-000.safetensors", len(content), hashlib.sha256(content).hexdigest())
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    (tmp_path / file.name).write_bytes(content)
    (tmp_path / "manifest.json").write_bytes(Manifest(1, "", "", 0, 1, 1, shapes, (file,)).to_json())
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        load_model(Storage(), f"file://{tmp_path}", module)


def test_an_index_is_never_unpickled(touched: Path) -> None:
    with pytest.raises(DataError, match="can't be read as an index"):
        from_parquet(pickle.dumps(Touch(touched)), "index/web.parquet")


# --- secrets ------------------------------------------------------------------------------------------

PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED000000001",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-access-key-0002",
    "AWS_SESSION_TOKEN": "planted-session-token-00000003",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": "http://planted-user-04:planted-password-05@127.0.0.1:1",
    "HF_TOKEN": "hf_plantedplantedplanted0006",
    "WANDB_API_KEY": "planted-api-key-0000000000007",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "planted-ray-token-000000000008",
}
SECRETS = [
    *(value for name, value in PLANTED.items() if len(value) > 10 and not name.endswith("_URL")),
    "planted-user-04",
    "planted-password-05",
]


def _holding_secrets(folder: Path) -> list[str]:
    """The files below a folder with a secret in them."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a temporary file, which has its name by now
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                found += [f"{path}: {secret}" for secret in SECRETS if secret.encode() in content]
    return found


@pytest.mark.ray
def test_a_failing_run_writes_no_secret(tmp_path: Path) -> None:
    """A library that workers import raises an error that quotes secrets. All that the run, its workers and Ray wrote is
    searched."""
    write_demo("digits", tmp_path / "digits")
    (tmp_path / "libraries").mkdir()
    (tmp_path / "libraries" / "deepspeed.py").write_text(
        "import os\n"
        "names = 'AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN', 'HF_TOKEN', 'AWS_ENDPOINT_URL', 'RAY_AUTH_TOKEN'\n"
        "raise RuntimeError('denied: ' + ' '.join(os.environ[name] for name in names))\n"
    )
    given = overrides(tmp_path / "digits", tmp_path / "runs", *TINY, "training.steps=100", "evaluations=[]")
    given = (*(each for each in given if not each.startswith("evaluations.")), "cluster.workers=1")
    given += ("retry.bug.retries=0",)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    session = Path(tempfile.mkdtemp(prefix="kept-out-", dir="/tmp"))  # sockets lie in it: a short path
    try:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", "run", str(EXAMPLE), *set_flags(given)],
            env={**environment, **PLANTED, "RAY_TMPDIR": str(session), "PYTHONPATH": str(tmp_path / "libraries")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        printed = done.stdout + done.stderr
        assert done.returncode == 1, printed
        assert "denied: *** *** *** http://***@127.0.0.1:1 ***" in printed, printed
        assert not [secret for secret in SECRETS if secret in printed]
        assert [*(tmp_path / "runs").rglob("*.jsonl")], "there is something to search"
        assert [*session.rglob("*.log")]
        assert not _holding_secrets(tmp_path / "runs")
        assert not _holding_secrets(session)
    finally:
        shutil.rmtree(session, ignore_errors=True)


@pytest.mark.parametrize("secret", ["https://u:pa55w0rd@host/x", "https://b/a.tar?X-Amz-Signature=pa55w0rd"])
def test_a_call_with_a_secret_does_not_show_it(secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    from orchestrator.command import told

    with pytest.raises(SystemExit), told(2):
        Storage().read(secret)
    assert "pa55w0rd" not in capsys.readouterr().err


def test_causes_and_tracebacks_are_written_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobspecs.storage import S3
    from orchestrator.ledger import Ledger
    from workers.run import RunDirectory

    monkeypatch.setenv("HF_TOKEN", "planted-token")
    ledger = Ledger(Storage(S3()), RunDirectory(f"file://{tmp_path}"))
    ledger.event(
        "attempt_failed", "401 for planted-token", cause="planted-token", failures=[{"details": "planted-token"}]
    )
    (written,) = (tmp_path / "events").iterdir()
    assert "planted-token" not in written.read_text()
    assert written.read_text().count("***") == 3


def test_what_is_rendered_names_secrets_and_holds_none(tmp_path: Path) -> None:
    from orchestrator.kubernetes import job_objects, to_yaml

    urls = ("data.sources.0.urls=['s3://b/*.tar']", "evaluations=[]", "storage.root=s3://b/runs")
    section = "cluster.kubernetes={image: a, secrets: [aws], token_secret: ray}"
    with pytest.MonkeyPatch.context() as environment:
        for name, value in PLANTED.items():
            environment.setenv(name, value)
        rendered = to_yaml(job_objects(digits_spec("data", tmp_path, *urls, section)))
    assert "secretName: ray" in rendered
    assert not [secret for secret in SECRETS if secret in rendered]
