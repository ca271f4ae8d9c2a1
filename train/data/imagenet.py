"""The 1,000 classes of ImageNet-1k, by number and by name.

The numbers are those of WordNet's synsets ("wnid"), in the usual order of the classes: sorted. A name is the first of
its synset's in WordNet, as timm 1.0 lists them (`timm/data/_info/imagenet_synset_to_lemma.txt`, Apache-2.0), but for
four that two classes share or that differ in capitals alone: `crane` twice, `maillot` twice, `Cardigan` (the dog).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from runtime.core.errors import DataError, FieldError
from runtime.core.text import check_labels, name_text, printable

CLASSES_FILE = Path(__file__).with_name("imagenet_classes.tsv")


@cache
def _names() -> dict[str, str]:
    """Read the names by wnid, in the order of the classes."""
    with CLASSES_FILE.open(encoding="utf-8", newline="") as file:
        return {row["wnid"]: row["name"] for row in csv.DictReader(file, delimiter="\t")}


def imagenet_labels() -> tuple[str, ...]:
    """Return the 1,000 class names, no two alike; the index is the label that ImageNet networks give."""
    return tuple(_names().values())


def readable_label(folder_name: str) -> str:
    """Return the name of the class whose wnid a folder is called by (`n01440764`: tench), else the folder's own."""
    return _names().get(folder_name, folder_name)


def readable_labels(folder_names: Sequence[str]) -> tuple[str, ...]:
    """Return the class names of folders, in their order.

    Raises:
        DataError: two folders are of one class, or the name of one is not Unicode or has control characters.
    """
    folder_names = tuple(map(name_text, folder_names))
    try:
        check_labels(folder_names)
    except FieldError as error:
        raise DataError(
            f"the class folder '{printable(str(error.received))}' has a name that cannot be a label; "
            f"expected {error.expected}: rename the folder"
        ) from None
    folder_of: dict[str, str] = {}
    for folder in folder_names:
        first = folder_of.setdefault(readable_label(folder), folder)
        if first != folder:
            raise DataError(
                f"class folders {first} and {folder} are both of class {readable_label(folder)}; "
                "expected one folder a class: join or rename them"
            )
    return tuple(folder_of)
