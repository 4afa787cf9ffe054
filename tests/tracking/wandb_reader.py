"""A reader of offline .wandb files, which wandb 0.31 no longer has: checks what a W&B run really holds.

The file is a 7-byte header (`:W&B`, 0xBEE1, version), then blocks of 32 KiB that hold a LevelDB log: records of crc32,
length and type (1 whole, 2 first, 3 middle, 4 last part), each a protobuf `Record`. The crc covers type and body.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .wandb_private import Record, RunRecord

_BLOCK = 32768
_HEADER = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """What one .wandb file says."""

    run: RunRecord | None = None
    config: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    exit_code: int | None = None


def read_offline_run(path: Path) -> OfflineRun:
    """Everything in one .wandb file, a torn tail excepted."""
    out = OfflineRun()
    for body in _bodies(path.read_bytes()):
        record = Record.FromString(body)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            out.run = record.run
            out.config.update(_items(record.run.config.update))
        elif kind == "config":
            out.config.update(_items(record.config.update))
        elif kind == "history":
            out.history.append(_items(record.history.item))
        elif kind == "summary":
            out.summary.update(_items(record.summary.update))
        elif kind == "exit":
            out.exit_code = record.exit.exit_code
    return out


def _items(items) -> dict:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _bodies(data: bytes) -> Iterator[bytes]:
    identifier, magic, _ = struct.unpack("<4sHB", data[:7])
    if (identifier, magic) != (b":W&B", 0xBEE1):
        raise ValueError(f"not a .wandb file: starts with {data[:7]!r}")
    position, parts = 7, b""
    while position + _HEADER.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER.size:  # too short for a header: padding
            position += left
            continue
        checksum, length, kind = _HEADER.unpack_from(data, position)
        body = data[position + _HEADER.size :][:length]
        if kind == 0 or len(body) < length:
            return  # the torn tail of a live or killed run
        if zlib.crc32(body, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"checksum of the record at byte {position} is wrong")
        position += _HEADER.size + length
        parts = body if kind in (_WHOLE, _FIRST) else parts + body
        if kind in (_WHOLE, _LAST):
            yield parts
