"""Checkpoints as training loops and hubs leave them: the network in them is found, and the rest refused in one line."""

from __future__ import annotations

import argparse
import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from runtime.core.errors import ArtifactError, ConfigError
from tests.support.published_networks import PLAIN, drawn_checkpoint
from train.model.weights import Tensors
from train.pretrained.checkpoint_file import read_checkpoint
from train.pretrained.checkpoint_names import NAMINGS, Naming

ORIGINAL, TRANSFORMERS, TIMM = NAMINGS
TENSORS = drawn_checkpoint(PLAIN, TIMM)
NORM = "norm.weight"


def same(found: Tensors, expected: Tensors) -> bool:
    return set(found) == set(expected) and all(np.array_equal(found[name], expected[name]) for name in expected)


def saved(path: Path, tensors: Tensors) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    return path


def prefixed(prefix: str, tensors: Tensors = TENSORS) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize("naming", NAMINGS, ids=lambda each: each.name)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.model.", "module.module.", ""])
def test_prefixes_are_removed(naming: Naming, prefix: str, tmp_path: Path) -> None:
    expected = drawn_checkpoint(PLAIN, naming)
    found = read_checkpoint(saved(tmp_path / "model.safetensors", prefixed(prefix, expected)))
    assert same(found.tensors, expected)
    assert (found.prefix, found.naming, found.averaged, found.others) == (prefix, naming, False, ())


def test_wrappers_within_a_name_are_removed(tmp_path: Path) -> None:
    names = {n: n.replace("layers.0.blocks.0.", "layers.0.blocks.0._orig_mod.") for n in TENSORS}
    assert sum(name != wrapped for name, wrapped in names.items()) > 5
    found = read_checkpoint(saved(tmp_path / "m.safetensors", {names[n]: v for n, v in TENSORS.items()}))
    assert same(found.tensors, TENSORS)


def test_an_average_is_preferred_and_the_rest_is_named(tmp_path: Path) -> None:
    averaged = {name: value + 1 for name, value in TENSORS.items()}
    content = prefixed("model.") | prefixed("model_ema.module.", averaged) | {"loss.weight": np.ones(2, np.float32)}
    found = read_checkpoint(saved(tmp_path / "model.safetensors", content))
    assert same(found.tensors, averaged)
    assert (found.averaged, found.prefix) == (True, "model_ema.module.")
    assert "loss.weight" in found.others and "model.norm.weight" in found.others


def test_two_networks_of_equal_rank_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", prefixed("student.") | prefixed("teacher."))
    with pytest.raises(ArtifactError, match="2 networks: student, teacher; save"):
        read_checkpoint(path)


def test_two_names_of_one_tensor_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", prefixed("module.") | TENSORS)
    with pytest.raises(ArtifactError, match="two names of one tensor"):
        read_checkpoint(path)


# --- safetensors ------------------------------------------------------------------------------------


def raw_safetensors(path: Path, entries: dict[str, Any], data: bytes) -> Path:
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def entry(kind: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_precisions_become_float32(kind: Any, tmp_path: Path) -> None:
    tensors = {name: value.astype(kind) for name, value in TENSORS.items()}
    found = read_checkpoint(saved(tmp_path / "m.safetensors", tensors)).tensors
    assert all(value.dtype == np.float32 for value in found.values())
    assert same(found, {name: value.astype(np.float32) for name, value in tensors.items()})


def test_bfloat16_needs_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    values = np.array([[1.0, -2.5], [0.15625, 3e38]], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    header = {"stem.a": entry("U8", [1], 0, 1), "stem.b": entry("BF16", [2, 2], 1, 9)}  # an odd place
    path = raw_safetensors(tmp_path / "m.safetensors", header, b"\7" + upper.tobytes())
    found = read_checkpoint(path).tensors["stem.b"]
    assert found.dtype == np.float32
    assert found.tolist() == (upper.astype(np.uint32) << 16).view(np.float32).tolist()
    assert found[0].tolist() == [1.0, -2.5]


@pytest.mark.parametrize(
    ("entries", "data", "reason"),
    [
        pytest.param({"stem.a": entry("F8_E4M3", [4], 0, 4)}, bytes(4), "stem.a is of type F8_E4M3", id="float8"),
        pytest.param({"stem.a": entry("C64", [1], 0, 8)}, bytes(8), "stem.a is of type C64", id="complex"),
        pytest.param({"stem.a": entry("F32", [1] * 100, 0, 4)}, bytes(4), "not a whole safetensors", id="100 dims"),
        pytest.param(
            {"stem.a": entry("F32", [2], 0, 8), "stem.b": entry("F32", [2], 4, 12)},
            bytes(12),
            "not a whole",
            id="overlap",
        ),
        pytest.param({"stem.a": entry("F32", [2], 0, 80)}, bytes(8), "not a whole", id="past the end"),
        pytest.param({"stem.a": entry("F32", [2**40, 2**40], 0, 8)}, bytes(8), "not a whole", id="huge shape"),
        pytest.param({"stem.a": entry("F32", [-1], 0, 4)}, bytes(4), "not a whole", id="negative"),
        pytest.param({"stem.a": {"dtype": "F32"}}, b"", "not a whole", id="no shape"),
        pytest.param([1, 2], b"", "not a whole", id="list"),
    ],
)
def test_odd_safetensors_are_one_line(entries: Any, data: bytes, reason: str, tmp_path: Path) -> None:
    path = raw_safetensors(tmp_path / "m.safetensors", entries, data)
    with pytest.raises(ArtifactError, match=reason):
        read_checkpoint(path)


@pytest.mark.parametrize("start", [b"\xff" * 8, struct.pack("<Q", 2**40), struct.pack("<Q", 2**27), b"", b"\0" * 8])
def test_headers_of_impossible_size_are_one_line(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(start + b"{")
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        read_checkpoint(tmp_path / "m.safetensors")


def test_a_deep_header_is_one_line(tmp_path: Path) -> None:
    header = b'{"a":' + b"[" * 200_000
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        read_checkpoint(tmp_path / "m.safetensors")


# --- folders and shards -----------------------------------------------------------------------------


def test_a_folder_of_a_hub_is_read(tmp_path: Path) -> None:
    saved(tmp_path / "model.safetensors", TENSORS)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    found = read_checkpoint(tmp_path)
    assert found.path.name == "model.safetensors" and same(found.tensors, TENSORS)


def test_a_folder_with_one_checkpoint_of_any_name_is_read(tmp_path: Path) -> None:
    saved(tmp_path / "best.safetensors", TENSORS)
    (tmp_path / "notes.txt").touch()
    assert read_checkpoint(tmp_path).path.name == "best.safetensors"
    saved(tmp_path / "last.safetensors", TENSORS)
    with pytest.raises(ArtifactError, match=r"found 2 \(best.safetensors, last.safetensors\).*name the checkpoint"):
        read_checkpoint(tmp_path)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.safetensors.*found none"):
        read_checkpoint(tmp_path)


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ArtifactError, match="git lfs pull"):
        read_checkpoint(tmp_path)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    names = sorted(TENSORS)
    files = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    for file, part in files.items():
        saved(tmp_path / file, {name: TENSORS[name] for name in part})
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return path


def test_shards_are_joined(sharded: Path) -> None:
    for given in (sharded, sharded.parent):
        found = read_checkpoint(given)
        assert same(found.tensors, TENSORS)
        assert [each.name for each in found.files] == ["a.safetensors", "b.safetensors"]


def change(sharded: Path, **places: Any) -> None:
    index = json.loads(sharded.read_text())
    index["weight_map"] |= {name.replace("__", "."): place for name, place in places.items()}
    sharded.write_text(json.dumps(index))


@pytest.mark.parametrize(
    "name", ["../out.safetensors", "/etc/passwd", "sub/out.safetensors", "..", ".", "", "a\0b", "..\\out.safetensors"]
)
def test_shards_outside_the_folder_are_never_opened(name: str, sharded: Path) -> None:
    saved(sharded.parent.parent / "out.safetensors", {NORM: TENSORS[NORM]})
    change(sharded, norm__weight=name)
    with pytest.raises(ArtifactError, match="expected files in its own folder"):
        read_checkpoint(sharded)


def test_missing_shards_are_named(sharded: Path) -> None:
    sharded.with_name("b.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"2 files, of which 1 are missing: b\.safetensors"):
        read_checkpoint(sharded)


def test_a_shard_without_its_tensors_is_refused(sharded: Path) -> None:
    change(sharded, norm__weight="a.safetensors")
    with pytest.raises(ArtifactError, match=r"a\.safetensors does not hold .*norm\.weight"):
        read_checkpoint(sharded)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"a":' * 100_000, '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {}}']
)
def test_a_damaged_index_is_one_line(text: str, sharded: Path) -> None:
    sharded.write_text(text)
    with pytest.raises(ArtifactError):
        read_checkpoint(sharded)


# --- files of torch ---------------------------------------------------------------------------------


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason=".pth needs torch")


def as_torch(torch: Any, tensors: Tensors = TENSORS) -> dict[str, Any]:
    return {name: torch.tensor(value) for name, value in tensors.items()}


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema", "ema_state_dict"])
def test_the_average_of_a_training_checkpoint_is_taken(key: str, torch: Any, tmp_path: Path) -> None:
    averaged = {name: value + 1 for name, value in TENSORS.items()}
    content = {"epoch": 3, "state_dict": as_torch(torch), key: prefixed("module.", as_torch(torch, averaged))}
    content |= {"args": argparse.Namespace(lr=0.1), "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}
    torch.save(content, tmp_path / "last.pth.tar")
    found = read_checkpoint(tmp_path / "last.pth.tar")
    assert same(found.tensors, averaged)
    assert (found.key, found.averaged, found.prefix) == (key, True, "module.")


@pytest.mark.parametrize("empty", [None, {}])
def test_an_average_without_tensors_is_not_taken(empty: Any, torch: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": as_torch(torch), "state_dict_ema": empty}, tmp_path / "m.pth")
    found = read_checkpoint(tmp_path / "m.pth")
    assert (found.key, found.averaged) == ("state_dict", False)


def test_parameters_and_an_average_s_counter_are_read(torch: Any, tmp_path: Path) -> None:
    content = {f"module.{name}": torch.nn.Parameter(value) for name, value in as_torch(torch).items()}
    torch.save(content | {"n_averaged": torch.tensor(7)}, tmp_path / "m.pth")
    found = read_checkpoint(tmp_path / "m.pth").tensors
    assert found.pop("n_averaged").shape == ()
    assert same(found, TENSORS)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda t, v: t.quantize_per_tensor(v, 0.1, 0, t.qint8), "is quantized"),
        (lambda t, v: v.to("meta"), "is on the device 'meta', without values"),
        (lambda t, v: v.to_sparse(), "is sparse"),
        (lambda t, v: v.to(t.complex64), "is of type complex64"),
        (lambda t, v: v.to(t.float8_e4m3fn), "is of type float8_e4m3fn"),
        (lambda t, v: t.ones(1).expand(10**9, 10**3), r"has shape .* but fewer values"),
    ],
    ids=["quantized", "meta", "sparse", "complex", "float8", "expanded"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_values_are_one_line(make: Any, reason: str, torch: Any, tmp_path: Path) -> None:
    content = as_torch(torch)
    torch.save(content | {NORM: make(torch, content[NORM])}, tmp_path / "m.pth")
    with pytest.raises(ArtifactError, match=f"norm.weight {reason}"):
        read_checkpoint(tmp_path / "m.pth")


@pytest.mark.parametrize("content", [[1, 2], 3.5, "text", {}, {"state_dict": {}}, {"a": 1}])
def test_a_file_without_a_network_is_one_line(content: Any, torch: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(ArtifactError):
        read_checkpoint(tmp_path / "m.pth")


def test_the_tensors_of_another_network_are_named(torch: Any, tmp_path: Path) -> None:
    torch.save({"epoch": 1, "state_dict": torch.nn.Linear(2, 3).state_dict()}, tmp_path / "m.pth")
    with pytest.raises(ArtifactError, match=r"received bias, weight; expected one of patch_embed\.\* \(original\)"):
        read_checkpoint(tmp_path / "m.pth")


def test_a_whole_module_is_refused_by_its_class(torch: Any, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 3), tmp_path / "m.pth")
    with pytest.raises(ArtifactError, match=r"GLOBAL torch\.nn\.modules\.linear\.Linear.*save only its state dict"):
        read_checkpoint(tmp_path / "m.pth")


def test_an_archive_that_unpacks_to_far_more_is_not_loaded(torch: Any, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2_000_000)}, tmp_path / "m.pth")
    with (
        zipfile.ZipFile(tmp_path / "m.pth") as source,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(ArtifactError, match="would unpack to 8,"):
        read_checkpoint(tmp_path / "bomb.pth")


def test_an_old_torch_is_refused(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(as_torch(torch), tmp_path / "m.pth")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ConfigError, match=r"install torch 2\.6 or newer"):
        read_checkpoint(tmp_path / "m.pth")


def test_shards_of_torch_are_joined(torch: Any, tmp_path: Path) -> None:
    names = sorted(TENSORS)
    for file, part in (("a.bin", names[:9]), ("b.bin", names[9:])):
        torch.save({name: torch.tensor(TENSORS[name]) for name in part}, tmp_path / file)
    places = {name: "a.bin" if name in names[:9] else "b.bin" for name in names}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert same(read_checkpoint(tmp_path).tensors, TENSORS)


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_are_read_or_refused(form: str, seed: int, torch: Any, tmp_path: Path) -> None:
    path = tmp_path / ("m.safetensors" if form == "safetensors" else "m.pth")
    if form == "safetensors":
        saved(path, TENSORS)
    else:
        torch.save(as_torch(torch), path, _use_new_zipfile_serialization=form == "zip")
    content, draw = path.read_bytes(), random.Random(seed)
    refused = 0
    for damage in range(30):
        damaged = bytearray(content)
        # Most of the damage is where the structure is.
        for _ in range((1, 10, 100)[damage % 3]):
            damaged[draw.randrange(3_000 if damage % 2 else len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged[: draw.randrange(len(damaged))] if damage % 5 == 0 else damaged)
        try:
            read_checkpoint(path)
        except ArtifactError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 5
