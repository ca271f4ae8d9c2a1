"""The documentation: its length, its line lengths, and its links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
README_LINES = 110
LONGEST_LINE = 160
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchor_of(heading: str) -> str:
    """The anchor that a forge gives a heading."""
    words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return words.replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        text = target.read_text(encoding="utf-8") if target.is_file() and target.suffix == ".md" else ""
        if not target.exists() or (anchor and anchor not in map(anchor_of, re.findall(r"^#+ (.*)$", text, re.M))):
            broken.append(link)
    return broken


def long_lines(page: Path) -> list[str]:
    lines = page.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if len(line) > LONGEST_LINE and not line.startswith("|")]


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_are_short_except_in_tables(page: Path) -> None:
    assert long_lines(page) == []


def test_the_architecture_page_names_every_room_and_only_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:train|calibration|export|runtime)/[\w/.]*)`", text))
    rooms = {
        f"{path.parent.relative_to(ROOT)}/"
        for stage in ("train", "calibration", "export", "runtime")
        for path in (ROOT / stage).rglob("__init__.py")
    }
    assert rooms - named == set()
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("# A title, with `code`\n[there](#a-title-with-code) [web](https://example.org)", []),
        ("# A\n[gone](gone.md)", ["gone.md"]),
        ("# A\n[gone](#b)", ["#b"]),
    ],
)
def test_a_planted_broken_link_is_found(tmp_path: Path, text: str, broken: list[str]) -> None:
    (tmp_path / "page.md").write_text(text)
    assert broken_links(tmp_path / "page.md") == broken
