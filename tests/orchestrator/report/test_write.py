"""The page as a whole: all of it is there, and nothing in it is markup that is not ours."""

from __future__ import annotations

import json
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jobspecs.errors import UsageError
from jobspecs.storage import S3
from orchestrator.lease import Lease
from orchestrator.ledger import Ledger
from orchestrator.report import leave, write
from orchestrator.report.leave import leave_report
from orchestrator.report.write import write_report
from tests.orchestrator.command import tandem
from tests.orchestrator.report.told_run import HOSTILE, result, write_images_run
from workers.data.order import Layout
from workers.run import PartsWriter, RunDirectory, RunPlan
from workers.storage import Storage


class Page(HTMLParser):
    """The elements of a page by name with their attributes, and all its text but style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag

    def handle_data(self, data: str) -> None:
        self.text += "" if self._in in ("style", "script") else data

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.elements)


def page_at(uri: str) -> Page:
    return Page(Path(uri.removeprefix("file://")).read_text())


def test_a_report_of_a_run_holds_all_of_it_and_only_as_text(tmp_path: Path) -> None:
    ledger = write_images_run(tmp_path)
    page = page_at(write_report([(ledger, None)]))
    assert (page.count("script"), page.count("style"), page.count("link")) == (1, 1, 0)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    addresses = [a[name] or "" for _, a in page.elements for name in ("src", "href") if name in a]
    assert addresses
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses)
    assert page.text.count(HOSTILE) > 20  # captions, causes, events, names of scores, keys and URIs of tars
    for told in (
        "told",
        "7 of 7",
        "3, of which 1 failed",
        "similar: similarity",
        "bug: ",
        "1 undecodable",
        "image → text",
        "Embeddings in two dimensions",
        "global_batch: 8",
        "steps_per_pass",
        "What steps spend their time on",
        "metrics and checkpoints",
    ):
        assert told in page.text, told


def test_several_runs_lie_over_each_other(tmp_path: Path) -> None:
    one, other = write_images_run(tmp_path, "one"), write_images_run(tmp_path, "other")
    out = write_report([(one, None), (other, None)], no_model="not now")
    assert out == f"{one.run.uri}/comparison.html"
    page = page_at(out)
    assert page.text.count("not now") == 4
    charts = [attributes["data-chart"] or "" for _, attributes in page.elements if "data-chart" in attributes]
    loss = next(chart for chart in charts if '"2.9"' in chart)
    assert loss.index('"one"') < loss.index('"other"')
    namesake = write_images_run(tmp_path / "again", "one")
    assert (
        "2 runs: " + tmp_path.name + "/one, again/one"
        in page_at(write_report([(one, None), (namesake, None)], no_model="-")).text
    )
    with pytest.raises(UsageError, match=r"one is named twice\. Name each run once"):
        write_report([(one, None), (one, None)])
    with pytest.raises(UsageError, match="no run to report"):
        write_report([])


def test_what_fails_with_the_model_leaves_the_rest_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = write_images_run(tmp_path)
    manifest = next((tmp_path / "told").glob("checkpoints/*/manifest.json"))
    content = manifest.read_bytes()
    manifest.unlink()
    page = page_at(write_report([(ledger, None)]))
    assert "Left out: " in page.text
    assert "has not committed a checkpoint yet" in page.text
    assert "7 of 7" in page.text
    manifest.write_bytes(content)
    monkeypatch.setattr("orchestrator.report.look._map", lambda *_: 1 / 0)
    page = page_at(write_report([(ledger, None)]))
    assert "Left out: ZeroDivisionError: division by zero (<lambda>, line" in page.text


@pytest.mark.parametrize("kind", [UsageError, ValueError])
def test_why_something_is_left_out_is_told_without_secrets(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise kind("no answer from https://ann:hunter22@host/x of s3cr3t-value")

    monkeypatch.setenv("MY_SECRET", "s3cr3t-value")
    monkeypatch.setattr("orchestrator.report.look.look", fail)
    html = Path(write_report([(write_images_run(tmp_path), None)]).removeprefix("file://")).read_text()
    assert "no answer from https://***@host/x of ***" in html
    assert "hunter22" not in html
    assert "s3cr3t-value" not in html


def test_a_run_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    storage, run = Storage(S3()), RunDirectory(f"file://{tmp_path}/job")
    storage.write(run.plan, RunPlan(Layout(0, 8, 2, 16, (8,)), 10, "spec", "index").to_json())
    storage.write(run.spec, b"of: another version\n")
    page = page_at(write_report([(Ledger(storage, run), None)], no_model="not now"))
    for told in ("No data yet.", "No attempt has begun yet.", "No evaluation has a result yet.", "of: another version"):
        assert told in page.text, told


def test_a_run_under_way_is_shown_as_it_stands(tmp_path: Path) -> None:
    ledger = write_images_run(tmp_path)
    lease = Lease(ledger.storage, ledger.run)
    lease.take()
    try:
        ledger.event("attempt_started", "…", attempt=4, step=3, world_size=2)
        ledger.event("run_started", "…")
        page = page_at(write_report([(ledger, None)], no_model="not now"))
    finally:
        lease.give_back()
    assert "running as of " in page.text
    assert "call tandem report again for news" in page.text


def test_numbers_that_are_none_leave_holes(tmp_path: Path) -> None:
    ledger = write_images_run(tmp_path)
    nan = float("nan")
    told = result(5, nan) | {"interval": [nan, nan], "chance": nan}
    ledger.storage.write(ledger.run.evaluation(5, "similar"), json.dumps(told).encode())
    writer = PartsWriter(ledger.storage, ledger.run.metrics, "a00004-")
    writer.append({"step": 7, "attempt": 4, "loss": None, "health": {"accuracy": None}})
    writer.flush()
    page = page_at(write_report([(ledger, None)], no_model="not now"))
    assert "similar: similarity" in page.text


def test_a_run_leaves_its_report_and_is_not_held_up_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = write_images_run(tmp_path)
    written = tmp_path / "told" / "report.html"
    monkeypatch.setattr(leave, "LARGEST_METRICS", 0)
    assert leave_report(ledger) == "its metrics have 0 MiB"
    assert not written.exists()
    monkeypatch.setattr(leave, "LARGEST_METRICS", 1 << 20)
    assert leave_report(ledger) == ""
    assert "tandem report RUN adds this" in written.read_text()
    monkeypatch.setattr(write, "page", lambda _: 1 / 0)
    assert leave_report(ledger) == "ZeroDivisionError: division by zero"
    monkeypatch.setattr(write, "page", lambda _: time.sleep(5) or "")
    monkeypatch.setattr(leave, "SECONDS", 0.05)
    assert leave_report(ledger) == "it took longer than 0 s"


def test_the_command_needs_no_torch_without_the_model(tmp_path: Path) -> None:
    write_images_run(tmp_path)
    out = tmp_path / "here.html"
    loader = tmp_path / "site" / "torch.py"
    loader.parent.mkdir()
    loader.write_text("raise ImportError('torch is not needed')")
    path = {"PYTHONPATH": f"{loader.parent}:{':'.join(filter(None, sys.path))}"}
    done = tandem("report", str(tmp_path / "told"), "--out", str(out), "--no-model", env=path)
    assert (done.returncode, done.stdout) == (0, f"file://{out}\n"), done.stderr
    assert "Left out, as it was asked for." in out.read_text()
