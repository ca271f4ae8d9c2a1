"""The walk through folders: every file once, by kind; no loop, nothing opened."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.core.errors import DataError
from runtime.images.listing import SYSTEM_NAMES, Folder, images_of, is_hidden, walk

IMAGES = ("a.jpg", "b.JPEG", "deep/c.Jfif", "deep/er/d.tiff", "e.avif", "f.bmp")
HIDDEN = (".h.png", "._a.jpg", "__MACOSX/a.jpg", "@eaDir/a.jpg/SYNO.jpg", "Thumbs.db", "desktop.ini", ".git/x.png")
UNKNOWN = ("notes.txt", "a.jpg.part", "deep/jpg", "deep/x.heic")


def fill(root: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    fill(tmp_path / "tree", (*IMAGES, *HIDDEN, *UNKNOWN))
    return tmp_path / "tree"


def of_kind(root: Path, kind: str) -> list[str]:
    return sorted(folder.under(name) for folder in walk(root) for name in getattr(folder, kind))


def test_each_file_is_listed_once_by_its_kind(tree: Path) -> None:
    assert of_kind(tree, "images") == sorted(IMAGES)
    assert of_kind(tree, "hidden") == sorted(HIDDEN)
    assert of_kind(tree, "unknown") == sorted(UNKNOWN)
    assert of_kind(tree, "special") == []
    assert sum(folder.seen for folder in walk(tree)) == sum(len(files) for _, _, files in os.walk(tree))


def test_folders_come_before_what_they_hold_in_the_order_of_their_names(tree: Path) -> None:
    assert [folder.path for folder in walk(tree)] == [
        "", ".git", "@eaDir", "@eaDir/a.jpg", "__MACOSX", "deep", "deep/er",
    ]  # fmt: skip
    assert [folder.path for folder in walk(tree, depth=0)] == [""]
    assert next(iter(walk(tree))).images == ("a.jpg", "b.JPEG", "e.avif", "f.bmp")


def test_what_is_not_a_plain_file_is_not_opened(tree: Path) -> None:
    os.mkfifo(tree / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "deep" / "socket.png"))
        (tree / "zero.png").symlink_to("/dev/zero")
        assert of_kind(tree, "special") == ["deep/socket.png", "pipe.jpg", "zero.png"]
    assert of_kind(tree, "images") == sorted(IMAGES)


def test_links_are_followed_but_not_in_circles(tree: Path, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", ("g.png", "sub/h.png"))
    (tree / "there").symlink_to(tmp_path / "elsewhere")
    (tree / "again").symlink_to(tmp_path / "elsewhere")
    for name, target in (("self", "."), ("up", ".."), ("top", "/"), ("deep/me", "../deep/er")):
        (tree / name).symlink_to(target)
    (tree / "file.png").symlink_to("a.jpg")
    (tree / "broken.png").symlink_to("nowhere")
    (tree / "turn.png").symlink_to("turn.png")
    (tree / ".linked").symlink_to("deep")
    found = of_kind(tree, "images")
    assert found == sorted((*IMAGES, "again/g.png", "again/sub/h.png", "file.png", "broken.png", "turn.png"))
    assert of_kind(tree, "special") == ["deep/me", "self", "there", "top", "up"] or of_kind(tree, "special") == [
        "deep/er", "self", "there", "top", "up",
    ]  # fmt: skip
    assert ".linked" in of_kind(tree, "hidden")


def test_many_links_between_folders_end(tmp_path: Path) -> None:
    for level in range(30):
        (tmp_path / f"{level}").mkdir()
        for name in "ab":
            (tmp_path / f"{level}" / name).symlink_to(f"../{level + 1}")
    assert len(list(walk(tmp_path))) == 31


def test_a_folder_that_cannot_be_listed_says_why(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "er":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert [(folder.path, folder.error) for folder in walk(tree) if folder.error] == [("deep/er", "Permission denied")]
    listing = images_of(str(tree))
    assert listing is not None
    assert f"1 folder(s) that cannot be listed ({tree}/deep/er: Permission denied)" in listing.passed_over()


def test_a_listing_is_sorted_and_says_what_it_leaves_out(tree: Path) -> None:
    listing = images_of(str(tree))
    assert listing is not None
    assert listing.images == tuple(sorted(tree / name for name in IMAGES))
    assert listing.passed_over() == (
        "7 hidden or system file(s), 4 of no known format (a.jpg.part, notes.txt, deep/jpg, ...)"
    )
    (tree / "deep" / "empty").mkdir()
    empty = images_of(str(tree / "deep" / "empty"))
    assert empty is not None and (empty.images, empty.passed_over()) == ((), "")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jpg", ["a.jpg"]),
        ("**/*.[jt]*", ["a.jpg", "deep/er/d.tiff"]),
        ("**", sorted(IMAGES)),
        ("deep/**/?.*", ["deep/c.Jfif", "deep/er/d.tiff"]),
        ("*/c.*", ["deep/c.Jfif"]),
        ("*e*/er/*", ["deep/er/d.tiff"]),
        ("no*", ["notes.txt"]),
        ("*/d.tiff", None),
        ("@*/*.jpg", None),
        ("a.jpg", None),
        ("none/*.jpg", None),
        (f"{'x' * 5000}*", None),
    ],
)
def test_a_pattern_names_what_its_parts_match(tree: Path, pattern: str, names: list[str] | None) -> None:
    listing = images_of(str(tree / pattern))
    assert (None if listing is None else list(listing.images)) == (names and [tree / name for name in names])


def test_a_file_whose_name_looks_like_a_pattern_is_no_pattern(tmp_path: Path) -> None:
    fill(tmp_path, ("a[b].png", "ab.png"))
    assert images_of(str(tmp_path / "a[b].png")) is None


def test_a_pattern_with_stars_within_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\*\*png.*expected `\*\*` as a whole part"):
        images_of(str(tmp_path / "**png"))


def test_hidden_names_in_any_case() -> None:
    assert all(map(is_hidden, [*SYSTEM_NAMES, ".x", "THUMBS.DB", "Desktop.ini", "@EADIR"]))
    assert not any(map(is_hidden, ["a.jpg", "thumbs", "eaDir", "MACOSX", "x.", "_x.png"]))


NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    paths=st.lists(
        st.lists(NAMES | st.sampled_from(["a.jpg", ".h", "__MACOSX", "x.txt", "Thumbs.db"]), min_size=1, max_size=4)
    )
)
def test_any_tree_is_listed_whole(tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]]) -> None:
    root = tmp_path_factory.mktemp("any")
    for parts in paths:
        try:
            root.joinpath(*parts[:-1]).mkdir(parents=True, exist_ok=True)
            root.joinpath(*parts).touch(exist_ok=False)
        except OSError:  # a file of that name is there
            continue
    folders: list[Folder] = list(walk(root))
    assert sum(folder.seen for folder in folders) == sum(len(files) for _, _, files in os.walk(root))
    seen = [folder.under(name) for folder in folders for name in (*folder.images, *folder.unknown)]
    assert len(set(seen)) == len(seen)
    assert not any(is_hidden(part) for path in seen for part in path.split("/"))
    assert all((root / path).is_file() for path in seen)
