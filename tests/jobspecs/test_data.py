"""The rules of `data:`, each fault at its line and in its words; what is right in several spellings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from jobspecs.load import dumps, loads
from tests.jobspecs.conftest import FULL

Wrong = Callable[..., list[str]]

URLS = '      urls: ["data/digits/train/{00000..00003}.tar"]\n'
IMAGE = "  image: {column: jpg, size: 32, crop_scale: [0.7, 1.0]}\n"
TEXT = "  text: {column: txt, tokenizer: {kind: bytes}, context_length: 48}\n"
SECOND = "    - {name: letters, urls: [b.tar], weight: 1}\n"
SIZE = "should be a number of bytes, or a size in B, KiB, MiB, GiB or TiB such as '200 GiB'"
COLUMN_OF_JSON = "field 'caption' is one of a JSON member, and column is"


@pytest.mark.parametrize(
    ("before", "after", "fault"),  # the fault stands in the line that ends in `# here`
    [
        # Sources.
        (URLS, f"{URLS}    - urls: [b.tar]\n      name: digits  # here\n",
            "(data.sources.1.name): names are unique; sources.0 has the name 'digits' too"),
        (f"    - name: digits\n{URLS}", f"    - name: digits  # here\n{URLS}{SECOND}",
            "(data.sources.0.weight): 'weight' is missing, and sources.1 has one\n"
            "    Give one to all sources or to none."),
        (URLS, f"{URLS}      weight: 2\n    - urls: [b.tar]  # here\n      name: b\n{SECOND}",
            "(data.sources.1.weight): 'weight' is missing, and sources.0 has one\n"
            "    Give one to all sources or to none."),
        (URLS, f"{URLS}      filters:\n        - {{field: a, at_least: 1}}\n        - field: b.c  # here\n",
            "(data.sources.0.filters.1): the filter on 'b.c' needs at_least, at_most or one_of"),
        (URLS, f"{URLS}      filters:\n        - field: a\n          at_least: 3.5\n          at_most: 3  # here\n",
            "(data.sources.0.filters.0.at_most): at_most 3 is below at_least 3.5"),
        # Ranges.
        (IMAGE, "  image:\n    size: 32\n    crop_ratio: [1, 0.5]  # here\n",
            "(data.image.crop_ratio): crop_ratio is [smallest, largest] with 0 < smallest <= largest, "
            "not [1.0, 0.5]"),
        (IMAGE, "  image:\n    size: 32\n    crop_ratio: [0, 1]  # here\n",
            "(data.image.crop_ratio): crop_ratio is [smallest, largest] with 0 < smallest <= largest, "
            "not [0.0, 1.0]"),
        (IMAGE, "  image:\n    size: 32\n    crop_scale: [-0.0, 1]  # here\n",
            "(data.image.crop_scale): crop_scale is [smallest, largest] with 0 < smallest <= largest, "
            "not [-0.0, 1.0]"),
        (IMAGE, "  image:\n    size: 32\n    color: {blur:\n      {sigma: [2, 1]}}  # here\n",
            "(data.image.color.blur.sigma): sigma is [smallest, largest] with 0 < smallest <= largest, "
            "not [2.0, 1.0]"),
        (IMAGE, "  image:\n    size: 32\n    color: {blur:\n      {sigma: [0, 1]}}  # here\n",
            "(data.image.color.blur.sigma): sigma is [smallest, largest] with 0 < smallest <= largest, "
            "not [0.0, 1.0]"),
        # Columns and the objective.
        (f"data:\n  sources:\n    - name: digits\n{URLS}{IMAGE}",
            f"data:  # here\n  sources:\n    - name: digits\n{URLS}",
            "(data.image): 'image' is missing\n"
            "    The image of a sample. Objective image_text needs it."),
        (f"data:\n  sources:\n    - name: digits\n{URLS}{IMAGE}{TEXT}",
            f"data:  # here\n  sources:\n    - name: digits\n{URLS}{IMAGE}",
            "(data.text): 'text' is missing\n"
            "    The text that belongs to the image. Objective image_text needs it."),
        (TEXT, "  text: null  # here\n",
            "(data.text): 'text' is missing\n"
            "    The text that belongs to the image. Objective image_text needs it."),
        (TEXT, f"{TEXT}  query: {{}}  # here\n",
            "(data.query): objective image_text has no use for data.query\n"
            "    It contrasts image and text."),
        (TEXT, f"{TEXT}  document: {{}}  # here\n  negatives: {{}}\n",
            "(data.document): objective image_text has no use for data.document\n"
            "    It contrasts image and text."),
        (TEXT, f"{TEXT}  negatives: {{}}  # here\n",
            "(data.negatives): objective image_text has no use for data.negatives\n"
            "    It contrasts image and text."),
        (IMAGE, "  image:\n    size: 32\n    views: 2  # here\n",
            "(data.image.views): objective image_text takes 1 view, not 2"),
        # Texts.
        (TEXT, "  text:\n    field: caption  # here\n",
            f"(data.text.field): {COLUMN_OF_JSON} 'txt'\n    For example column: json."),
        (TEXT, f"{TEXT}  query:\n    field: caption  # here\n",
            f"(data.query.field): {COLUMN_OF_JSON} 'query.txt'\n    For example column: json."),
        (TEXT, "  text:\n    column: json;notjson\n    field: caption  # here\n",
            f"(data.text.field): {COLUMN_OF_JSON} 'json;notjson'\n    For example column: json."),
        (TEXT, "  text:\n    tokenizer:\n      kind: pretraind  # here\n      name: a\n",
            "(data.text.tokenizer.kind): should be 'bytes', 'bpe' or 'pretrained', given: \"pretraind\"\n"
            "    Did you mean 'pretrained'?"),
        (TEXT, "  text:\n    tokenizer: {}  # here\n",
            "(data.text.tokenizer.kind): 'kind' is missing\n    It is one of 'bytes', 'bpe', 'pretrained'."),
        (TEXT, "  text:\n    tokenizer: bytes  # here\n",
            '(data.text.tokenizer): should be a mapping, `key: value`, given: "bytes"\n'
            "    Write {kind: bytes}."),
        (TEXT, "  text:\n    tokenizer: {kind: pretrained}  # here\n",
            "(data.text.tokenizer.name): 'name' is missing\n"
            "    A folder, or a name on the hub such as `openai/clip-vit-base-patch32`."),
        (TEXT, "  text:\n    tokenizer:\n      kind: bytes\n      vocabulary: 300  # here\n",
            "(data.text.tokenizer.vocabulary): unknown key 'vocabulary'\n"
            "    It is a field of kind 'bpe'. Allowed here: kind."),
        # The weight.
        (TEXT, f"{TEXT}  weight:\n    column: txt\n    field: quality  # here\n",
            "(data.weight.field): field 'quality' is one of a JSON member, and column is 'txt'\n"
            "    For example column: json."),
        # The loader.
        (TEXT, f"{TEXT}  loader:\n    read_ahead: -1  # here\n",
            "(data.loader.read_ahead): should be greater than or equal to 0, given: -1"),
        (TEXT, f"{TEXT}  loader: {{cache: {{\n    folder: /a,\n    max_size: 200 GB}}}}  # here\n",
            f'(data.loader.cache.max_size): {SIZE}, given: "200 GB"'),
        (TEXT, f"{TEXT}  loader:\n    cache: {{folder: /a}}  # here\n",
            "(data.loader.cache.max_size): 'max_size' is missing\n"
            "    It never holds more than this: bytes, or a size such as `200 GiB`; at least `64 MiB`, as it keeps "
            "parts of 8 MiB. Those that were not used for longest go first."),
        (TEXT, f"{TEXT}  loader:\n    cache: {{folder: /a, max_size: 63 MiB}}  # here\n",
            '(data.loader.cache.max_size): should be greater than or equal to 67108864, given: "63 MiB"'),
    ],
)  # fmt: skip
def test_a_fault_and_its_line(wrong: Wrong, example: str, before: str, after: str, fault: str) -> None:
    text = example.replace(before, after)
    (line,) = [number for number, words in enumerate(text.splitlines(), 1) if words.endswith("# here")]
    assert wrong(text) == [f"job.yaml:{line} {fault}"]


def test_several_mistakes_come_at_once(wrong: Wrong, example: str) -> None:
    text = example.replace(URLS, f"{URLS}      filters: [{{field: a}}]\n").replace("kind: bytes", "kind: byte")
    assert [fault.partition(": ")[0] for fault in wrong(text, "data.loader.cache={folder: /a, max_size: 9 Gb}")] == [
        "job.yaml:15 (data.sources.0.filters.0)",
        "job.yaml:17 (data.text.tokenizer.kind)",
        "--set data.loader.cache (data.loader.cache.max_size)",
    ]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("100000000", 100_000_000),
        ("100_000_000", 100_000_000),
        ("100000000 B", 100_000_000),
        ("100000 KiB", 102_400_000),
        ("64 MiB", 64 * 1024**2),
        ("200 GiB", 214_748_364_800),
        ("'200GiB'", 214_748_364_800),
        ("2 TiB", 2 * 1024**4),
    ],
)
def test_a_size_is_the_same_in_any_spelling(example: str, size: str, expected: int) -> None:
    one, other = (
        loads(example, overrides=(f"data.loader.cache={{folder: /a, max_size: {each}}}",)) for each in (size, expected)
    )
    assert one == other
    assert one.data.loader.cache is not None
    assert one.data.loader.cache.max_size == expected
    assert dumps(one) == dumps(other)
    assert one.experiment_hash() == other.experiment_hash()


@pytest.mark.parametrize(
    "override",
    [
        "data.sources.0.weight=0.5",
        "data.sources=[{name: a, urls: [a.tar]}, {name: b, urls: [a.tar]}]",
        "data.sources=[{name: a, urls: [a.tar], weight: 1}, {name: b, urls: [b.tar], weight: 1e-3}]",
        "data.sources.0.filters=[{field: a, at_least: 1, at_most: 1}, {field: a, one_of: [x, 1, 1, true, '1']}]",
        "data.sources.0.filters=[]",
        "data.text={column: json;meta.json, field: a.b}",
        "data.text.column=json",
        "data.image.crop_ratio=[2, 2]",
        "data.image.color={}",
        "data.loader.read_ahead=0",
    ],
)
def test_what_is_right_reads_back_equal(example: str, override: str) -> None:
    spec = loads(example, overrides=(override,))
    assert loads(dumps(spec)) == spec
    assert loads(dumps(spec)).experiment_hash() == spec.experiment_hash()


@pytest.mark.parametrize("name", FULL)
def test_every_field_reads_back_equal(fulls: dict[str, dict[str, Any]], name: str) -> None:
    spec = loads(json.dumps(fulls[name]))
    assert loads(dumps(spec)) == spec


def test_the_values_of_a_filter_keep_their_types(full: dict[str, Any]) -> None:
    spec = loads(json.dumps(full))
    for each in (spec, loads(dumps(spec))):  # 1 == True in Python, not in JSON
        (kept,) = each.data.sources[1].filters
        assert [(type(value), value) for value in kept.one_of or []] == [(str, "a"), (int, 1), (bool, True)]


def test_the_texts_by_name(fulls: dict[str, dict[str, Any]]) -> None:
    data = loads(json.dumps(fulls["image_text"])).data
    assert data.texts == {"text": data.text}
    data = loads(json.dumps(fulls["text_text"])).data
    assert data.texts == {"query": data.query, "document": data.document}
