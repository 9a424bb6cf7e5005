from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import msgspec
import pytest

from edgewise.runtime.contract.manifest import Precision, RealisedPrecision, Target
from edgewise.runtime.engines.cache import EngineCache, EngineKey, EngineRecord, cache_folder
from edgewise.runtime.system.errors import BackendError

MODEL = hashlib.sha256(b"model").hexdigest()

KEY = EngineKey(
    graph="main",
    target=Target.TENSORRT_RTX,
    precision=Precision.INT8,
    model_sha256=MODEL,
    source_sha256=MODEL,
    tool_version="1.7.1.116",
    compute_capabilities=("sm86", "sm89"),
    shapes={"image": (1, 550, 550, 3)},
    flags=("STRONGLY_TYPED",),
    options={"workspace_mib": "256"},
    writer="edgewise 0.1.0",
)


def record_of(engine: bytes, key: EngineKey = KEY, built_at: str = "2026-01-01T00:00:00") -> EngineRecord:
    return EngineRecord(
        key=key,
        bundle="a model",
        sha256=hashlib.sha256(engine).hexdigest(),
        size=len(engine),
        realised=RealisedPrecision(target=key.target, tool="t", device="sm86", layers={"int8": 3}),
        build_seconds=1.0,
        built_at=built_at,
    )


def find(cache: EngineCache, **changes: object) -> EngineRecord | None:
    wanted: dict[str, object] = {
        "graph": "main",
        "target": Target.TENSORRT_RTX,
        "precision": Precision.INT8,
        "model_sha256": MODEL,
        "tool_version": "1.7.1.116",
        "compute_capability": "sm86",
        "gpu": "a GPU",
        **changes,
    }
    return cache.find(**wanted)  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.mark.parametrize(
    "change",
    [
        {"graph": "key"},
        {"target": Target.TENSORRT},
        {"precision": Precision.FP16},
        {"model_sha256": hashlib.sha256(b"other").hexdigest()},
        {"source_sha256": hashlib.sha256(b"other").hexdigest()},
        {"tool_version": "1.7.2"},
        {"compute_capabilities": ("sm86",)},
        {"gpu": "a GPU"},
        {"shapes": {"image": (1, 550, 551, 3)}},
        {"flags": ()},
        {"options": {}},
        {"writer": "edgewise 0.2.0"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_the_key_changes_the_digest(change: dict[str, object]) -> None:
    assert msgspec.structs.replace(KEY, **change).digest() != KEY.digest()


def test_digest_depends_on_content_only() -> None:
    twin = msgspec.json.decode(msgspec.json.encode(KEY), type=EngineKey)
    assert twin.digest() == KEY.digest()
    shuffled = msgspec.structs.replace(KEY, options={"b": "1", "a": "2"})
    assert shuffled.digest() == msgspec.structs.replace(KEY, options={"a": "2", "b": "1"}).digest()


def test_what_was_stored_is_read_back(cache: EngineCache) -> None:
    record = record_of(b"engine")
    cache.store(record, b"engine")
    assert cache.lookup(KEY) == record
    assert cache.read(record) == b"engine"
    assert list(cache.records()) == [record]
    assert cache.folder.stat().st_mode & 0o077 == 0


def test_engine_that_is_not_in_the_index_is_not_loaded(cache: EngineCache) -> None:
    cache.store(record_of(b"engine"), b"engine")
    foreign = record_of(b"downloaded")
    (cache.folder / f"{foreign.sha256}.engine").write_bytes(b"downloaded")
    with pytest.raises(BackendError, match="not in the index"):
        cache.read(foreign)


def test_changed_engine_is_not_loaded(cache: EngineCache) -> None:
    record = record_of(b"engine")
    cache.store(record, b"engine")
    cache.engine_path(record).write_bytes(b"evil!!")
    with pytest.raises(BackendError, match="another SHA-256"):
        cache.read(record)


def test_record_that_does_not_describe_the_engine_is_refused(cache: EngineCache) -> None:
    with pytest.raises(BackendError, match="does not describe"):
        cache.store(record_of(b"engine"), b"another")
    assert not cache.folder.exists()


def test_record_under_another_key_is_refused(cache: EngineCache) -> None:
    record = record_of(b"engine")
    cache.store(record, b"engine")
    other = msgspec.structs.replace(KEY, precision=Precision.FP16)
    cache.record_path(other).write_bytes(cache.record_path(KEY).read_bytes())
    with pytest.raises(BackendError, match="does not belong"):
        find(cache)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format": 1}'])
def test_damaged_record_is_reported(cache: EngineCache, damage: bytes) -> None:
    cache.store(record_of(b"engine"), b"engine")
    cache.record_path(KEY).write_bytes(damage)
    with pytest.raises(BackendError, match="not a record") as caught:
        find(cache)
    assert "edgewise build" in caught.value.hint


def test_record_with_an_unknown_field_is_reported(cache: EngineCache) -> None:
    cache.store(record_of(b"engine"), b"engine")
    path = cache.record_path(KEY)
    path.write_text(json.dumps({**json.loads(path.read_text()), "trusted": True}))
    with pytest.raises(BackendError, match="trusted"):
        cache.lookup(KEY)


def test_folder_that_others_can_write_is_refused(cache: EngineCache) -> None:
    record = record_of(b"engine")
    cache.store(record, b"engine")
    cache.folder.chmod(0o777)
    with pytest.raises(BackendError, match="other users"):
        cache.read(record)
    with pytest.raises(BackendError, match="other users"):
        find(cache)


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"compute_capability": "sm89"}, True),
        ({"compute_capability": "sm87"}, False),
        ({"tool_version": "1.7.2"}, False),
        ({"precision": Precision.FP16}, False),
        ({"target": Target.TENSORRT}, False),
        ({"graph": "nonkey"}, False),
        ({"model_sha256": hashlib.sha256(b"other").hexdigest()}, False),
    ],
)
def test_only_fitting_engines_are_found(cache: EngineCache, change: dict[str, object], fits: bool) -> None:
    cache.store(record_of(b"engine"), b"engine")
    assert (find(cache, **change) is not None) is fits


def test_engine_tuned_on_a_gpu_is_found_on_that_gpu_only(cache: EngineCache) -> None:
    key = msgspec.structs.replace(KEY, gpu="a GPU")
    cache.store(record_of(b"engine", key), b"engine")
    assert find(cache) is not None
    assert find(cache, gpu="another GPU") is None


def test_newest_fitting_engine_wins(cache: EngineCache) -> None:
    newer = record_of(b"two", msgspec.structs.replace(KEY, options={}), "2026-01-03T00:00:00")
    older = record_of(b"one", KEY, "2026-01-02T00:00:00")
    for record, engine in ((newer, b"two"), (older, b"one")):
        cache.store(record, engine)
    assert find(cache) == newer


def test_building_again_replaces_the_older_engine(cache: EngineCache) -> None:
    first, second = record_of(b"first"), record_of(b"second", built_at="2026-02-01T00:00:00")
    cache.store(first, b"first")
    cache.store(second, b"second")
    assert [path.name for path in cache.folder.glob("*.engine")] == [f"{second.sha256}.engine"]
    with pytest.raises(BackendError, match="not in the index"):
        cache.read(first)


def test_engine_that_another_record_uses_stays(cache: EngineCache) -> None:
    other = msgspec.structs.replace(KEY, options={})
    cache.store(record_of(b"same"), b"same")
    cache.store(record_of(b"same", other), b"same")
    cache.store(record_of(b"new"), b"new")
    assert cache.read(record_of(b"same", other)) == b"same"


def test_missing_engine_is_as_if_it_was_never_built(cache: EngineCache) -> None:
    record = record_of(b"engine")
    cache.store(record, b"engine")
    cache.engine_path(record).unlink()
    assert cache.lookup(KEY) is None
    assert find(cache) is None


def test_folder_that_cannot_be_written_is_found_before_the_build(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BackendError, match="is not a folder"):
        EngineCache(tmp_path / "file" / "engines").check_writable()
    fresh = EngineCache(tmp_path / "new" / "engines")
    fresh.check_writable()
    assert not fresh.folder.parent.exists()
    with pytest.raises(BackendError, match="cannot be stored"):
        EngineCache(tmp_path / ("x" * 300)).store(record_of(b"engine"), b"engine")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_found_before_the_build(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BackendError, match="not yours to write"):
        EngineCache(tmp_path / "engines").check_writable()


def test_empty_cache_finds_nothing(cache: EngineCache) -> None:
    assert find(cache) is None
    assert not cache.folder.exists()


def _store_many(folder: Path, mark: int) -> None:
    cache = EngineCache(folder)
    for number in range(20):
        engine = f"{mark} {number}".encode() * 2000
        cache.store(record_of(engine, built_at=f"{number:04}"), engine)


@pytest.mark.slow
def test_concurrent_builders_leave_a_whole_pair(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    context = multiprocessing.get_context("spawn")
    builders = [context.Process(target=_store_many, args=(folder, mark)) for mark in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    cache = EngineCache(folder)
    record = cache.lookup(KEY)
    assert record is not None
    assert len(cache.read(record)) == record.size
    assert not list(folder.glob(".*"))


def test_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("EDGEWISE_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "edgewise"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "edgewise"
