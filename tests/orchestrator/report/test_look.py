"""What the newest checkpoint makes of samples, against the encoder and NumPy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from jobspecs.errors import DataError, UsageError
from orchestrator.find_checkpoint import find_checkpoint
from orchestrator.report import geometry, look, looks
from tests.orchestrator.report.told_run import (
    HOSTILE,
    write_images_run,
    write_pairs_run,
    write_two_view_run,
    write_version,
)
from workers.evaluate.encode import Encoder


def test_neighbours_and_map_of_images_and_captions(tmp_path: Path) -> None:
    ledger = write_images_run(tmp_path)
    seen = look.look(ledger.run.uri, None)
    assert (seen.step, seen.samples, seen.source, seen.hard) == (7, 24, "source digits", None)
    assert [(grid.one, grid.other) for grid in seen.grids] == [("image", "text"), ("text", "image")]

    found = find_checkpoint(ledger.run.uri)
    encoder = Encoder.of_checkpoint(found.spec, found.run, found.uri)
    images = encoder.images([f"{tmp_path}/data/*.tar"], "txt", 64)
    captions = [content.decode() for content in images.column]
    distinct = list(dict.fromkeys(captions))
    cosines = images.features.astype(np.float64) @ encoder.texts(distinct, 64).astype(np.float64).T
    nearest = [distinct[place] for place in cosines.argmax(1)]
    grid = seen.grids[0]
    share = np.mean([one == own for one, own in zip(nearest, captions, strict=True)])
    assert grid.first_is_match == pytest.approx(share)
    for row, (query, neighbours) in zip(geometry.chosen(24, look.QUERIES), grid.rows, strict=True):
        assert query.text == captions[row]
        assert neighbours[0].cosine == pytest.approx(cosines[row].max(), abs=1e-5)
        assert [each.is_match for each in neighbours] == [each.item.text == captions[row] for each in neighbours]
    points = [point for point in seen.map.points if point.side == "text"]
    assert [point.item.text for point in points] == distinct
    assert HOSTILE in distinct
    assert len(seen.map.points) == 24 + len(distinct)
    assert sum(seen.positives) == pytest.approx(1)


def test_images_alone_are_near_to_other_images(tmp_path: Path) -> None:
    seen = look.look(write_two_view_run(tmp_path).run.uri, None)
    (grid,) = seen.grids
    assert (grid.one, grid.other) == ("image", "image")
    assert math.isnan(grid.first_is_match)
    for query, neighbours in grid.rows:
        assert query.image not in [each.item.image for each in neighbours]
        assert [each.cosine for each in neighbours] == sorted((each.cosine for each in neighbours), reverse=True)
    assert (len(seen.map.points), seen.map.gap, seen.positives) == (24, 0, [])
    looked = looks.neighbours(seen) + looks.embedding_map(seen)
    assert looked.count("<img") == look.QUERIES * (1 + look.NEIGHBOURS)


def test_hard_negatives_before_training_and_after(tmp_path: Path) -> None:
    ledger = write_pairs_run(tmp_path)
    seen = look.look(ledger.run.uri, None)
    assert [(grid.one, grid.other) for grid in seen.grids] == [("query", "document")]
    hard = seen.hard
    assert hard is not None
    (origin,) = hard.origins
    assert (origin.name, origin.queries) == ("", 8)  # the fifth has none
    found = find_checkpoint(ledger.run.uri)
    encoder = Encoder.of_checkpoint(found.spec, found.run, found.uri)
    for query, answer, others in hard.rows:
        number = int(query.split()[1])
        assert answer.text == f"answer {number}"
        assert {other.text for other in others} == {f"answer {number + 1}", f"no answer {number}"}
        asked = encoder.texts([query], 1, "query")[0]
        documents = encoder.texts([answer.text, *(other.text for other in others)], 4, "document")
        cosines = [answer.after, *(other.after for other in others)]
        np.testing.assert_allclose(cosines, documents @ asked, atol=1e-5)
        assert others[0].after >= others[1].after
    assert any(not math.isclose(answer.before, answer.after) for _, answer, _ in hard.rows)


def test_hard_negatives_of_a_job_that_mines_are_those_of_its_first_and_newest_version(tmp_path: Path) -> None:
    ledger = write_pairs_run(tmp_path, "mining: {every_steps: 2}")
    assert look.look(ledger.run.uri, None).hard_missing == "None is mined yet."
    for version in (1, 2, 3):
        write_version(ledger, version, {place: [f"mined {version} for {place}"] for place in range(9) if place != 2})
    hard = look.look(ledger.run.uri, None).hard
    assert hard is not None
    assert [(origin.name, origin.queries) for origin in hard.origins] == [("version 1", 8), ("version 3", 8)]
    for query, answer, others in hard.rows:
        number = query.split()[1]
        assert answer.text == f"answer {number}"
        told = {(other.origin, other.text) for other in others}
        assert told == {(f"version {version}", f"mined {version} for {number}") for version in (1, 3)}


def test_a_run_without_a_checkpoint_or_data_says_so(tmp_path: Path) -> None:
    ledger = write_images_run(tmp_path)
    (tmp_path / "data" / "0.tar").unlink()
    with pytest.raises(DataError, match=r"there are no samples to look at\. source digits: .*data"):
        look.look(ledger.run.uri, None)
    next((tmp_path / "told").glob("checkpoints/*/manifest.json")).unlink()
    with pytest.raises(UsageError, match="not committed a checkpoint yet"):
        look.look(ledger.run.uri, None)
