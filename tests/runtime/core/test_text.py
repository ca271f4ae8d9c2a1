"""Text from outside: what is shown of it, what tells names apart, and which labels are accepted."""

from __future__ import annotations

import json
import os
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.errors import ConfigError
from runtime.core.files import json_text
from runtime.core.text import check_labels, file_id, markdown_text, printable, printable_lines, shortened

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))
# What collides if it is escaped carelessly.
TRICKY = st.text(st.sampled_from(["\\", "x", "1", "b", "u", "n", "\n", "\x1b", "\x9b", "\udc9b", "\udc1b", "0", "é"]))


def original(name: str) -> str:
    """Undo `file_id`, written from its description alone."""
    short = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}

    def unescaped(match: re.Match[str]) -> str:
        if match[1]:
            return short[match[1]]
        if match[2]:
            byte = int(match[2], 16)
            return os.fsdecode(bytes([byte])) if byte >= 0x80 else chr(byte)
        return chr(int(match[3], 16))

    return re.sub(r"\\(?:([nrt\\])|x([0-9a-f]{2})|u([0-9a-f]{4}))", unescaped, name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Straße München 🐈 naïve", "Straße München 🐈 naïve"),
        (os.fsdecode(b"Stra\xdfe"), r"Stra\xdfe"),
        ("\ud83d alone", r"\ud83d alone"),
        ("red\x1b[31m", r"red\x1b[31m"),
        ("line\nbreak\r\ttab", r"line\nbreak\r\ttab"),
        ("nul\0 del\x7f c1\x9b", r"nul\x00 del\x7f c1\u009b"),
        ("abc\u202egpj.exe", r"abc\u202egpj.exe"),
        ("C:\\new\\x1b", "C:\\new\\x1b"),
        ("👩\u200d🔬 a\u200cb", "👩\u200d🔬 a\u200cb"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(ANY_TEXT | TRICKY)
def test_printable_text_has_no_surrogate_control_character_or_line_break(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert not [each for each in shown if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")]
    assert not [each for each in shown if unicodedata.bidirectional(each) in ("LRE", "RLE", "LRO", "RLO", "PDF")]
    assert printable(shown) == shown
    lines = printable_lines(text)
    assert lines.split("\n") == [printable(line) for line in text.split("\n")]


@given(ANY_TEXT | TRICKY)
def test_an_id_is_printable_and_gives_its_name_back(name: str) -> None:
    assert printable(file_id(name)) == file_id(name)
    assert original(file_id(name)) == name


@given(st.binary())
def test_any_name_of_the_file_system_has_an_id_of_its_own(name: bytes) -> None:
    assert os.fsencode(original(file_id(os.fsdecode(name)))) == name


@pytest.mark.parametrize("name", ["cat/001.jpg", "C:\\pics\\a.jpg", "caf\u00e9 \U0001f408.jpg", "100%d [1].jpg"])
def test_a_usual_name_is_its_own_id(name: str) -> None:
    assert file_id(name) == name


def test_names_that_are_shown_alike_have_different_ids() -> None:
    names = ["a\x1b", "a\\x1b", "a\\\\x1b", os.fsdecode(b"a\x9b"), "a\x9b", "a\\x9b", "a\\u009b"]
    assert len({file_id(name) for name in names}) == len(names)


def test_a_long_text_is_cut() -> None:
    assert shortened("y" * 20_000) == "y" * 57 + "..."
    assert len(shortened("\x1b" * 20_000)) == 60
    assert shortened("y" * 60) == "y" * 60


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ([], "labels=[]; expected one class name or more"),
        (["cat", ""], "labels[1]=''; expected a class name that is not empty"),
        (["cat", " \t"], "labels[1]=' \\t'; expected a class name that is not empty"),
        (["cat", "dog", "cat"], "labels[2]='cat'; expected a name of its own for each class; labels[0] has it too"),
        (["cat\n", "dog"], r"labels[0]='cat\n'; expected a class name on one line"),
        (["cat", "d\x1b[31mog"], r"labels[1]='d\x1b[31mog'; expected a class name on one line, without control"),
        (["cat", "d\0og"], "without control characters"),
        (["\ufeffcat", "dog"], r"labels[0]='\ufeffcat'; expected"),
        (["cat", os.fsdecode(b"Stra\xdfe")], r"labels[1]='Stra\udcdfe'; expected a class name in Unicode"),
        (["cat", "\x1b" * 20_000], "without control characters"),
    ],
)
def test_labels_that_are_refused(labels: list[str], fault: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(fault)) as refused:
        check_labels(labels)
    assert printable(str(refused.value)) == str(refused.value) and len(str(refused.value)) < 400


def test_labels_that_are_accepted() -> None:
    check_labels(["US$_$1 bill", "<script>", "a | b", "`x`", "]]>", "Straße", "猫", "🐈", "x" * 20_000, "C:\\new"])


@given(
    st.recursive(ANY_TEXT | st.none() | st.integers(), lambda each: st.lists(each) | st.dictionaries(ANY_TEXT, each))
)
def test_json_is_ascii_without_lone_surrogates(content: object) -> None:
    text = json_text(content)
    assert text.isascii()
    json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8")


def test_json_keeps_what_is_text() -> None:
    content = {"caf\u00e9": ["line\nbreak", "\x1b", "🐈", 1.5, None, True, ("C:\\new",)]}
    assert json.loads(json_text(content)) == {"caf\u00e9": ["line\nbreak", "\x1b", "🐈", 1.5, None, True, ["C:\\new"]]}
    assert json.loads(json_text([os.fsdecode(b"Stra\xdfe")])) == [r"Stra\xdfe"]


@given(ANY_TEXT)
def test_markdown_has_no_markup_of_a_text(text: str) -> None:
    line = markdown_text(text)
    assert printable(line) == line
    assert not re.search(r"(?<!\\)(\\\\)*[`*_|<>\[\]#&$~]", line)


def test_markup_in_a_label_is_text() -> None:
    assert markdown_text("<b> | `x` $1$ &lt;\n**y**") == r"\<b\> \| \`x\` \$1\$ \&lt; \*\*y\*\*"
