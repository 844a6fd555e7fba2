"""Text stays text."""

from __future__ import annotations

from html import unescape

import pytest

from orchestrator.report.html import Html, tag, verbatim


def test_an_element_with_attributes_and_contents() -> None:
    inner = tag("b", "<i>", class_="a b")
    assert tag("p", "1 & 2", inner, None, [inner], aria_label='"x"', hidden=True, title=None, x=0.5, y=0) == (
        '<p aria-label="&quot;x&quot;" hidden x="0.5" y="0">1 &amp; 2<b class="a b">&lt;i&gt;</b>'
        '<b class="a b">&lt;i&gt;</b></p>'
    )
    assert tag("img", alt="'") == '<img alt="&#x27;">'


@pytest.mark.parametrize("text", ["</p><p>", "<!-- ", "&lt;&amp;", "\"'`", "a\n\tb\x00\x1b", "日本 🎈 \u2028", "]]>"])
def test_any_text_is_read_back_as_it_was_and_opens_nothing(text: str) -> None:
    made = tag("p", text, title=text)
    assert made.count("<") == made.count(">") == 2
    kept = "".join(letter if letter in "\n\t" or ord(letter) >= 32 else "\N{REPLACEMENT CHARACTER}" for letter in text)
    assert unescape(made[made.index(">") + 1 : -4]) == kept


def test_halves_of_pairs_can_be_written_as_utf_8() -> None:
    assert tag("p", "a\ud800\x00b").encode() == "<p>a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b</p>".encode()


def test_our_own_script_can_t_end_its_element() -> None:
    assert isinstance(verbatim("a < b"), Html)
    with pytest.raises(AssertionError, match="end its element"):
        verbatim("'</script>'")
