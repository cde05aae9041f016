"""Text made safe and readable: one line, no markup, plain names, times."""

import html

import pytest
from markdown_it import MarkdownIt

from blocks.artifact_store import check_key
from tasks.text import duration, escape_markdown, one_line, slug


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("two\nlines\r\n  and\ttabs ", "two lines and tabs"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("right\u202eto left\u2028end\0", "right to left end"),
        ("Zürich 東京", "Zürich 東京"),
        (ValueError("bad\nvalue"), "bad value"),
        ("", ""),
    ],
)
def test_one_line_is_printable(text: object, expected: str) -> None:
    assert one_line(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("12345", "12345"), ("123456", "1234…"), ("12 \n 456", "12 4…")])
def test_one_line_is_cut_to_the_limit(text: str, expected: str) -> None:
    assert one_line(text, 5) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("*a* _b_ **c** `d` ~~e~~", "[a](b) ![c](d)", "<b>x</b>", "a | b", "&amp; &lt;", "\\*a\\*", "<http://x.y> a@b.c", "$x$"),
        *("# a", "## a", "> a", "- a", "+ a", "* a", "1. a", "23) a", "-", "1.", "- [ ] a", "---", "===", "***", "```"),
        "plain 0.5 - 3, a.b-c!",
    ],
)
def test_escaped_text_shows_as_it_is(text: str) -> None:
    renderer = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    shown = html.escape(text, quote=False)
    assert renderer.render(escape_markdown(text)).strip() == f"<p>{shown}</p>"
    assert renderer.render(f"- {escape_markdown(text)}").split("<li>") == ["<ul>\n", f"{shown}</li>\n</ul>\n"]


def test_escaped_text_is_one_line() -> None:
    assert "\n" not in escape_markdown("a\n# b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ag-news.v1_x", "ag-news.v1_x"),
        ("My model (ü)!", "My-model"),
        ("../../etc/passwd", "etc-passwd"),
        ("a/../b", "a-..-b"),
        ("", "run"),
        ("..", "run"),
        ("東京", "run"),
        ("x" * 150, "x" * 100),
        ("x" * 99 + "/y", "x" * 99),
    ],
)
def test_a_slug_is_a_part_of_a_key(text: str, expected: str) -> None:
    assert slug(text) == expected
    assert check_key(slug(text)) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (61, "1 min"),
        (95, "2 min"),
        (3569, "59 min"),
        (3599, "1 h 0 min"),
        (7380, "2 h 3 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_durations_are_said_as_people_do(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
