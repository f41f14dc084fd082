"""TensorBoard's event files: enough of TFRecord and of two protobuf messages to write scalars.

A record is its length, a checksum of that, the message, a checksum of that. In a message of one key
only the time, the step and the value change, and all three are written at a fixed width (a varint
may have leading zeros); so the checksums of many points are computed at once, where numpy is there.

Source: tensorboard/compat/proto/{event,summary}.proto; lib/hash/crc32c.h of LevelDB for the mask.
"""

import os
import platform
import struct
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VERSION = b"brain.Event:2"
VARINT_BYTES = 10  # of any 64-bit number
FEW = 16  # points: for fewer, numpy is slower
MAX_TAG_BYTES = 2_000

_TIME = b"\x09"  # Event.wall_time, a double
_STEP = b"\x10"  # Event.step, a varint
_FILE_VERSION = b"\x1a"
_SUMMARY = b"\x2a"
_SESSION = b"\x3a\x02\x08\x01"  # Event.session_log: START, so that later steps are forgotten
_VALUE = b"\x15"  # Summary.Value.simple_value, a float
_POLYNOMIAL = 0x82F63B78  # of CRC-32C, reversed
_MASK_DELTA = 0xA282EAD8


class EventFile:
    """One file that grows; a process writes one of its own."""

    def __init__(self, directory: Path) -> None:
        name = f"events.out.tfevents.{int(time.time())}.{platform.node()}.{os.getpid()}"
        number = 0
        while (path := directory / f"{name}.{number}").exists():
            number += 1
        self._file = path.open("ab", buffering=0)
        self._file.write(_record(_head(time.time(), 0) + _bytes_field(_FILE_VERSION, VERSION)))

    def add(
        self, tag: str, steps: "array[int]", values: "array[float]", times: "array[int]"
    ) -> None:
        """Points of one key; times in milliseconds."""
        self._file.write(encode(tag, steps, values, times))

    def resume(self, step: int) -> None:
        """What was written after this step is superseded."""
        self._file.write(_record(_head(time.time(), step + 1) + _SESSION))

    def close(self) -> None:
        self._file.close()


def encode(tag: str, steps: Sequence[int], values: Sequence[float], times: Sequence[int]) -> bytes:
    """A record for each point."""
    text = tag.encode()[:MAX_TAG_BYTES]
    value = _bytes_field(b"\x0a", text) + _VALUE + bytes(4)
    body = _head(0.0, 0) + _bytes_field(_SUMMARY, _bytes_field(b"\x0a", value))
    if len(steps) >= FEW:
        try:
            import numpy as np
        except ModuleNotFoundError:
            pass
        else:
            return _encode_many(np, body, steps, values, times)
    parts = []
    for step, number, at_ms in zip(steps, values, times, strict=True):
        whole = _head(at_ms / 1000, step) + body[19 + 1 : -4]
        parts.append(_record(whole + struct.pack("<f", _as_float32(number))))
    return b"".join(parts)


def _encode_many(
    np: Any, body: bytes, steps: Sequence[int], values: Sequence[float], times: Sequence[int]
) -> bytes:
    count, size = len(steps), len(body)
    records = np.empty((count, 12 + size + 4), np.uint8)
    head = struct.pack("<Q", size)
    records[:, :12] = np.frombuffer(head + struct.pack("<I", _masked(_crc(head))), np.uint8)
    message = records[:, 12 : 12 + size]
    message[:] = np.frombuffer(body, np.uint8)
    seconds = np.asarray(times, np.int64) / 1000
    message[:, 1:9] = seconds.astype("<f8").view(np.uint8).reshape(count, 8)
    rest = np.asarray(steps, np.int64).view(np.uint64)
    for at in range(VARINT_BYTES):
        more = 0x80 if at < VARINT_BYTES - 1 else 0
        message[:, 10 + at] = (rest & np.uint64(0x7F)).astype(np.uint8) | more
        rest = rest >> np.uint64(7)
    with np.errstate(over="ignore", invalid="ignore"):
        floats = np.asarray(values, np.float64).astype("<f4")
    message[:, -4:] = floats.view(np.uint8).reshape(count, 4)
    table = np.array(_TABLE, np.uint32)
    crc = np.full(count, 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(message.T):
        crc = table[(crc ^ column) & 0xFF] ^ (crc >> np.uint32(8))
    crc = ~crc
    crc = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(_MASK_DELTA)
    records[:, -4:] = crc.astype("<u4").view(np.uint8).reshape(count, 4)
    return bytes(records.tobytes())


def _head(seconds: float, step: int) -> bytes:
    rest = step & 0xFFFF_FFFF_FFFF_FFFF
    varint = bytes(
        rest >> 7 * at & 0x7F | (0x80 if at < VARINT_BYTES - 1 else 0) for at in range(VARINT_BYTES)
    )
    return _TIME + struct.pack("<d", seconds) + _STEP + varint


def _bytes_field(tag: bytes, value: bytes) -> bytes:
    size, head = len(value), bytearray(tag)
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + value


def _record(body: bytes) -> bytes:
    head = struct.pack("<Q", len(body))
    return b"".join(
        (
            head,
            struct.pack("<I", _masked(_crc(head))),
            body,
            struct.pack("<I", _masked(_crc(body))),
        )
    )


def _crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _as_float32(value: float) -> float:
    """What is too large for 32 bits is infinite."""
    try:
        struct.pack("<f", value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return value


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _table()
