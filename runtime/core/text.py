"""Text from outside: labels, names of files and messages, made safe to show, to draw and to keep.

A name that is not UTF-8 reaches Python with lone surrogates, which no encoder and no drawing function takes. Control
characters command a terminal, and marks of direction show a text in another order than it has.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from runtime.core.errors import FieldError

# Control characters (C0, DEL, C1), marks that change the direction or the line, surrogates and what XML 1.0 forbids.
_UNSHOWN = (
    "\x00-\x1f\x7f-\x9f\u061c\u180e\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff"
)
_UNSHOWN_CHARACTER = re.compile(f"[{_UNSHOWN}]")
_UNSHOWN_IN_LINES = re.compile(f"(?!\n)[{_UNSHOWN}]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# A backslash that would be read as the start of an escape.
_AMBIGUOUS_BACKSLASH = re.compile(rf"\\(?=[\\nrtxu{_UNSHOWN}])")
_SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
# The surrogates that stand for the bytes 0x80 to 0xff of a name that is not UTF-8 (PEP 383).
_FIRST_BYTE, _LAST_BYTE, _BYTE_OFFSET = "\udc80", "\udcff", 0xDC00
LONGEST_SHOWN_LABEL = 60
LONGEST_IN_PLOT = 40


def printable(text: str) -> str:
    r"""Return a text on one line, with escapes in place of what a terminal, a drawing or a file cannot show.

    A byte of a name that is not UTF-8 becomes `\xdf`, another character `\u202e` or, for C0, `\x1b`; line breaks and
    tabs become `\n`, `\r` and `\t`. Escaped text stays as it is, so that it may pass here twice.
    """
    return text if text.isascii() and text.isprintable() else _UNSHOWN_CHARACTER.sub(_escape, text)


def printable_lines(text: str) -> str:
    r"""Return a text as `printable` does, but keep its lines."""
    return _UNSHOWN_IN_LINES.sub(_escape, text)


def name_text(name: str) -> str:
    """Return a name of the file system as text, whatever the locale: UTF-8 if it is that, else with surrogates."""
    if name.isascii():
        return name
    try:
        return os.fsencode(name).decode()
    except UnicodeError:
        return name


def file_id(name: str) -> str:
    r"""Return the name of a file as identifiers have it: printable, and different for different names.

    It differs from `printable` in backslashes: one that could be the start of an escape is doubled. It leaves all
    other names as they are.
    """
    return printable(_AMBIGUOUS_BACKSLASH.sub(r"\\\\", name_text(name)))


def printable_content(content: Any) -> Any:
    """Return JSON content, objects, arrays and strings, whose strings are as `printable` returns them."""
    return _with_texts(content, printable)


def unicode_only(content: Any) -> Any:
    r"""Return JSON content whose strings have `\xdf` in place of a lone surrogate; JSON has escapes for the others."""
    return _with_texts(content, lambda text: text if text.isascii() else _SURROGATE.sub(_escape, text))


def _with_texts(content: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(content, str):
        return clean(content)
    if isinstance(content, dict):
        return {_with_texts(key, clean): _with_texts(value, clean) for key, value in content.items()}
    return [_with_texts(each, clean) for each in content] if isinstance(content, list | tuple) else content


def markdown_text(text: str) -> str:
    """Return a text for a line or a cell of Markdown: printable, its special characters escaped, its spaces single."""
    line = printable(" ".join(text.split()))
    return "".join(f"\\{sign}" if sign in "\\`*_|<>[]#&$~" else sign for sign in line)


def plot_text(text: str) -> str:
    r"""Return a text for a plot: short, printable, and with `\$` for a dollar sign: two enclose a formula."""
    return shortened(text, LONGEST_IN_PLOT).replace("$", r"\$")


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if _FIRST_BYTE <= character <= _LAST_BYTE:
        return f"\\x{ord(character) - _BYTE_OFFSET:02x}"
    if character < "\x80":
        return _SHORT_ESCAPES.get(character, f"\\x{ord(character):02x}")
    # C1 controls too: `\x9b` is a byte of a name.
    return f"\\u{ord(character):04x}"


def shortened(text: str, longest: int = LONGEST_SHOWN_LABEL) -> str:
    """Return a text as `printable` does, cut to a number of characters."""
    shown = printable(text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def check_labels(labels: Sequence[str]) -> None:
    """Check class names: one or more, each text that can be shown as it is, not empty and different from the others.

    Args:
        labels: K class names, from a manifest, a run, a split file, a file of labels or the names of folders.

    Raises:
        FieldError: one does not fit; the message gives its index, and what was expected.
    """
    if not labels:
        raise FieldError("labels", labels, "one class name or more")
    first_with: dict[str, int] = {}
    for index, label in enumerate(labels):
        expected = _expected_of(label)
        if label in first_with:
            expected = f"a name of its own for each class; labels[{first_with[label]}] has it too"
        if expected:
            raise FieldError(f"labels[{index}]", label[:LONGEST_SHOWN_LABEL], expected)
        first_with[label] = index


def _expected_of(label: str) -> str:
    """Return what a class name should be instead, "" if it fits."""
    if not label.strip():
        return "a class name that is not empty"
    if printable(label) == label:
        return ""
    if any("\ud800" <= character <= "\udfff" for character in label):
        return "a class name in Unicode; write it in UTF-8"
    return "a class name on one line, without control characters"
