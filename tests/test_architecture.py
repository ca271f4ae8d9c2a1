"""The layout: imports point one way and in no circle, folders stay small, and the runtime needs few packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MAY_IMPORT: dict[str, frozenset[str]] = {
    "runtime": frozenset(),
    "train": frozenset({"runtime"}),
    "calibration": frozenset({"runtime", "train"}),
    "export": frozenset({"runtime", "train", "calibration"}),
}
OURS = frozenset({*MAY_IMPORT, "tests"})
RUNTIME_PACKAGES = frozenset({"numpy", "cv2", "tqdm"})
WEB_PACKAGES = frozenset({"aiohttp"})
DECODERS = {
    "cv2": ("imread", "imreadmulti", "imdecode", "imdecodemulti", "imreadanimation", "haveImageReader"),
    "Image": ("open",),
}
BLOCKED = ("tensorflow", "keras", "tf_keras", "jax", "torch", "matplotlib", "tensorflow_model_optimization")


def imported_packages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every absolute import, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays in its package, unless it climbs out of it.
            yield node.lineno, (node.module or "").partition(".")[0] if node.level == 0 else "." * node.level


def violations(root: Path) -> list[str]:
    """Imports under `root` that point the wrong way, as "file:line imports package"."""
    found = []
    for stage, allowed in MAY_IMPORT.items():
        for path in sorted((root / stage).rglob("*.py")):
            for line, package in imported_packages(ast.parse(path.read_text(encoding="utf-8"))):
                upward = package.startswith("..")
                if upward or package in OURS - allowed - {stage}:
                    found.append(f"{path.relative_to(root)}:{line} imports {package}")
    return found


def test_imports_point_one_way() -> None:
    assert all(list((ROOT / stage).glob("*.py")) for stage in MAY_IMPORT)
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("stage", "statement", "package"),
    [
        ("runtime", "import train.data.registry", "train"),
        ("runtime", "from export import bundle", "export"),
        ("runtime", "from ..train import data", ".."),
        ("train", "import os, calibration", "calibration"),
        ("train", "def f():\n    from export.quantize.qat import g", "export"),
        ("calibration", "from export.quantize.schemes import x", "export"),
        ("export", "from tests.support.tiny_bundle import x", "tests"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, stage: str, statement: str, package: str) -> None:
    (tmp_path / stage).mkdir()
    (tmp_path / stage / "bad.py").write_text(f'"""A module."""\n{statement}\n')
    (found,) = violations(tmp_path)
    assert found.startswith(str(Path(stage) / "bad.py"))
    assert found.endswith(f"imports {package}")


@pytest.mark.parametrize(
    ("stage", "statement"),
    [
        ("train", "from runtime.core.errors import DataError"),
        ("export", "import train, calibration, runtime"),
        ("runtime", "from runtime.engines.engine import Outputs"),
        ("runtime", "from .engine import Outputs"),
        ("calibration", "import trains"),
    ],
)
def test_what_is_allowed_is_not_found(tmp_path: Path, stage: str, statement: str) -> None:
    (tmp_path / stage).mkdir()
    (tmp_path / stage / "good.py").write_text(statement)
    assert violations(tmp_path) == []


def decoding_calls(tree: ast.AST) -> Iterator[str]:
    """Calls that decode an image: OpenCV's and Pillow's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if node.attr in DECODERS.get(owner, ()):
                yield f"{owner}.{node.attr}"


def test_one_module_decodes_images() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): set(decoding_calls(ast.parse(path.read_text(encoding="utf-8"))))
        for folder in (*MAY_IMPORT, "examples")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name: calls for name, calls in found.items() if calls} == {
        "runtime/images/decode.py": {"cv2.imdecode"},
        "runtime/parity/measures/corruptions.py": {"cv2.imdecode"},  # what it encoded itself
    }


@pytest.mark.parametrize("call", ["cv2.imread('a')", "cv2.imdecode(x, 1)", "PIL.Image.open('a')", "Image.open('a')"])
def test_a_second_decoder_is_found(call: str) -> None:
    assert len(list(decoding_calls(ast.parse(call)))) == 1


def test_runtime_names_no_other_package() -> None:
    for path in (ROOT / "runtime").rglob("*.py"):
        packages = {package for _, package in imported_packages(ast.parse(path.read_text(encoding="utf-8")))}
        allowed = RUNTIME_PACKAGES | (WEB_PACKAGES if path.parent == ROOT / "runtime" / "web" else set())
        assert packages - sys.stdlib_module_names - {"runtime"} <= allowed, path


def test_runtime_imports_without_the_training_packages() -> None:
    modules = sorted(f"runtime.{path.stem}" for path in (ROOT / "runtime").glob("*.py"))
    assert "runtime.camera_demo" in modules
    modules.append("runtime.web")
    program = (
        "import sys, importlib\n"
        f"sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print('imported', 'ai_edge_litert' in sys.modules, 'aiohttp' in sys.modules)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert finished.returncode == 0, finished.stderr
    # The interpreter too is imported only when a bundle is opened, and the web server when a page is served.
    assert finished.stdout == "imported False False\n"


MOST_MODULES = 13
# One name may stand in several rooms where it names the same thing of each.
SHARED_NAMES = frozenset(
    ["__init__", "__main__", "benchmark", "convert", "cost", "maps", "registry", "report", "summary"]
)


def modules_of(root: Path) -> dict[str, Path]:
    """The stages' modules by dotted name, packages by the name of their folder."""
    paths = [path for stage in MAY_IMPORT for path in (root / stage).rglob("*.py")]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports_between(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """The modules that each module imports, those inside functions too."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                named = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {each if each in modules else node.module for each in named} & set(modules)
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & set(modules)
    return found


def circle_of(imports: Mapping[str, set[str]]) -> list[str]:
    """A chain of modules that import each other in a circle, or nothing."""
    done: set[str] = set()

    def visit(name: str, chain: list[str]) -> list[str]:
        if name in chain:
            return [*chain[chain.index(name) :], name]
        if name in done:
            return []
        for each in sorted(imports.get(name, ())):
            if found := visit(each, [*chain, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(imports) if (found := visit(name, []))), [])


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle_of(imports_between(modules_of(ROOT))) == []


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.py").write_text("import train.b")
    (tmp_path / "train" / "b.py").write_text("def f():\n    from train.a import x")
    assert circle_of(imports_between(modules_of(tmp_path))) == ["train.a", "train.b", "train.a"]


def test_no_folder_is_crowded() -> None:
    counts: dict[Path, int] = defaultdict(int)
    for path in modules_of(ROOT).values():
        counts[path.parent] += path.name != "__init__.py"
    assert {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_a_module_name_stands_for_one_thing() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in modules_of(ROOT).values():
        places[path.stem].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in SHARED_NAMES} == {}
