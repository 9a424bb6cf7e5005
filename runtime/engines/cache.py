"""Engines as local build artefacts: stored by what went in, opened only by what the index says.

An engine is executable code, so a file is given to TensorRT only when a record of this cache lists its
SHA-256. A record is one JSON file, named by the hash of the engine's key; the engine beside it is named by
its own hash. Both appear by rename, engine first: a reader sees a whole pair or none, and of two builders of
the same key the last one wins with a matching pair.

The folder is `$EDGEWISE_CACHE`, else `$XDG_CACHE_HOME/edgewise`, else `~/.cache/edgewise`; engines lie in its
`engines` folder, which must belong to the user (or root) and be writable by nobody else.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edgewise.runtime.contract.manifest import Precision, RealisedPrecision, Target
from edgewise.runtime.contract.parts import Part, PositiveInt, Sha256
from edgewise.runtime.system.atomic import write_bytes
from edgewise.runtime.system.documents import decode_json
from edgewise.runtime.system.errors import BackendError
from edgewise.runtime.system.publishing import writing

RECORD_FORMAT = 1


class EngineKey(Part, frozen=True, kw_only=True):
    """Everything that decides what an engine is; two equal keys mean exchangeable engines."""

    graph: str
    target: Target
    precision: Precision
    model_sha256: Sha256
    """Of the file that the manifest names for this graph, target and precision."""
    source_sha256: Sha256
    """Of what was compiled: the same file, or the FP32 model where builder flags choose the precision."""
    tool_version: str
    """Version of TensorRT or TensorRT-RTX; an engine runs on no other."""
    compute_capabilities: tuple[str, ...]
    """Sorted, e.g. `("sm86", "sm89")`."""
    gpu: str = ""
    """The GPU it was tuned on and its multiprocessors; empty where an engine suits every GPU of its kind."""
    shapes: dict[str, tuple[PositiveInt, ...]]
    """Input name -> shape."""
    flags: tuple[str, ...] = ()
    """Network and builder flags, sorted."""
    options: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """Other builder options, e.g. workspace and optimisation level."""
    writer: str
    """Program and version of the builder, e.g. `edgewise 0.1.0`."""

    def digest(self) -> str:
        """SHA-256 of the key in its canonical JSON."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class EngineRecord(Part, frozen=True, kw_only=True):
    """What the index knows of one engine."""

    format: int = RECORD_FORMAT
    key: EngineKey
    bundle: str
    """Name in the bundle's manifest, for people."""
    sha256: Sha256
    size: PositiveInt
    realised: RealisedPrecision
    build_seconds: Annotated[float, Meta(ge=0.0)]
    built_at: str
    """UTC, ISO 8601."""


def cache_folder() -> Path:
    """The user's cache folder of edgewise, whether or not it exists yet."""
    if own := os.environ.get("EDGEWISE_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "edgewise"


@dataclass(frozen=True)
class EngineCache:
    """The engines in one folder. Holds no state beside the files."""

    folder: Path

    @classmethod
    def of_user(cls) -> EngineCache:
        """The cache that `edgewise run` reads."""
        return cls(cache_folder() / "engines")

    def engine_path(self, record: EngineRecord) -> Path:
        """Where the engine of a record lies."""
        return self.folder / f"{record.sha256}.engine"

    def record_path(self, key: EngineKey) -> Path:
        """Where the record of a key lies, if it was built."""
        return self.folder / f"{key.digest()}.json"

    def store(self, record: EngineRecord, engine: bytes) -> None:
        """Write an engine and then its record; an older engine of the same key goes.

        Raises:
            BackendError: The folder cannot be written or is open to other users, or the record does not
                describe `engine`.
        """
        if hashlib.sha256(engine).hexdigest() != record.sha256 or len(engine) != record.size:
            raise BackendError("the record does not describe this engine", where=record.bundle)
        self.check_writable()
        with writing(self.folder, waiting=lambda holder: None):
            try:
                self.folder.mkdir(mode=0o700, exist_ok=True)
                older = self.lookup(record.key)
                write_bytes(self.engine_path(record), engine)
                path = self.record_path(record.key)
                write_bytes(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
            except OSError as error:
                raise _unwritable(self.folder, error.strerror or str(error)) from None
            if older is not None and all(older.sha256 != other.sha256 for other in self.records()):
                self.engine_path(older).unlink(missing_ok=True)

    def check_writable(self) -> None:
        """Raise BackendError where `store` would fail; call it before a long build. Writes nothing."""
        try:
            if self.folder.is_dir():
                self._check_folder()
            present = self.folder
            while not present.exists():
                present = present.parent
        except OSError as error:
            raise _unwritable(self.folder, error.strerror or str(error)) from None
        if not present.is_dir():
            raise _unwritable(self.folder, f"{present} is not a folder")
        if not os.access(present, os.W_OK | os.X_OK):
            raise _unwritable(self.folder, f"{present} is not yours to write")

    def lookup(self, key: EngineKey) -> EngineRecord | None:
        """The record of exactly this key; None where it was never built, or its engine is gone."""
        try:
            data = self.record_path(key).read_bytes()
        except FileNotFoundError:
            return None
        record = _decode(data, self.record_path(key))
        return record if self.engine_path(record).exists() else None

    def find(
        self,
        *,
        graph: str,
        target: Target,
        precision: Precision,
        model_sha256: str,
        tool_version: str,
        compute_capability: str,
        gpu: str,
    ) -> EngineRecord | None:
        """The newest engine of a model file for this GPU and TensorRT, whatever its options."""
        fitting = [
            record
            for record in self.records()
            if (record.key.graph, record.key.target, record.key.precision) == (graph, target, precision)
            and record.key.model_sha256 == model_sha256
            and record.key.tool_version == tool_version
            and compute_capability in record.key.compute_capabilities
            and record.key.gpu in ("", gpu)
        ]
        return max(fitting, key=lambda record: record.built_at, default=None)

    def read(self, record: EngineRecord) -> bytes:
        """The engine of a record that this cache holds; exactly the returned bytes have the recorded hash.

        Raises:
            BackendError: The index does not list this engine, or the file is missing or changed.
        """
        self._check_folder()
        if self.lookup(record.key) != record:
            raise BackendError(
                "the engine is not in the index of built engines, so it is not loaded",
                where=str(self.folder),
                hint="engines are executable code: build it here with `edgewise build`",
            )
        path = self.engine_path(record)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise BackendError(
                "the engine is not the one that was built: another SHA-256",
                where=str(path),
                hint="delete it and run `edgewise build` again",
            )
        return data

    def records(self) -> Iterator[EngineRecord]:
        """Every record whose engine exists, in no particular order.

        Raises:
            BackendError: A record cannot be read.
        """
        if not self.folder.is_dir():
            return
        self._check_folder()
        for path in sorted(self.folder.glob("[0-9a-f]*.json")):
            with suppress(FileNotFoundError):  # replaced between listing and reading
                record = _decode(path.read_bytes(), path)
                if self.engine_path(record).exists():
                    yield record

    def _check_folder(self) -> None:
        status = self.folder.stat()
        owners = (os.getuid(), 0)
        if status.st_uid not in owners or status.st_mode & stat.S_IWOTH:
            raise BackendError(
                "the engine cache can be written by other users; engines are executable code",
                where=str(self.folder),
                hint="chmod 700 the folder, or set EDGEWISE_CACHE to one of your own",
            )


def _unwritable(folder: Path, reason: str) -> BackendError:
    return BackendError(
        f"the engine cannot be stored: {reason}",
        where=str(folder),
        hint="choose another folder by --output or EDGEWISE_CACHE, or make room",
    )


def _decode(data: bytes, path: Path) -> EngineRecord:
    hint = "delete the file and run `edgewise build` again"
    record = decode_json(
        data,
        EngineRecord,
        lambda reason: BackendError(f"not a record of a built engine: {reason}", where=str(path), hint=hint),
    )
    if record.format != RECORD_FORMAT or path.stem != record.key.digest():
        raise BackendError("the record does not belong to its file name", where=str(path), hint=hint)
    return record
