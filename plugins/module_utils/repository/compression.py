# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zstd, through python3-zstandard. Every object and every frame is one zstd frame that `zstd -d` reads."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed

# Raw bytes that are hashed and compressed at a time; more does not fit the processor's cache.
PIECE_BYTES = 1 << 20

# Compressors and decompressors must not be shared between threads, and are costly to make.
_mine = threading.local()


def compress(pieces: Iterable[bytes | memoryview], level: int) -> tuple[bytes, str]:
    """Compress and hash in one pass.

    Args:
        pieces: the raw content; only one piece is in memory at a time.
        level: of zstd.

    Returns:
        (one zstd frame with checksum, hexadecimal SHA-256 of the raw content).
    """
    digest = hashlib.sha256()
    worker = _compressor(level).compressobj()
    output = []
    for piece in pieces:
        digest.update(piece)
        output.append(worker.compress(piece))
    output.append(worker.flush())
    return b"".join(output), digest.hexdigest()


def compress_frame(raw: bytes, level: int) -> bytes:
    """Compress one piece that is whole in memory."""
    frame: bytes = _compressor(level).compress(raw)
    return frame


def decompress(frame: bytes) -> bytes:
    """The raw content of one frame.

    Raises:
        ValueError: it is damaged, cut short, or something follows it. The message continues "<object> ...".
            What follows a frame that tells its size is not noticed: the content is whole.
    """
    zstandard = _library()
    try:
        if zstandard.frame_content_size(frame) >= 0:
            whole: bytes = _decompressor().decompress(frame)
            return whole
        worker = _decompressor().decompressobj()
        raw: bytes = worker.decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(f"cannot be decompressed: {error}") from None
    if not worker.eof:
        raise ValueError("is cut short")
    if worker.unused_data:
        raise ValueError("continues behind its end")
    return raw


def _compressor(level: int) -> Any:
    if getattr(_mine, "level", None) != level:
        _mine.compressor = _library().ZstdCompressor(level=level, write_checksum=True)
        _mine.level = level
    return _mine.compressor


def _decompressor() -> Any:
    if not hasattr(_mine, "decompressor"):
        _mine.decompressor = _library().ZstdDecompressor()
    return _mine.decompressor


def _library() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise OperationFailed(f"Compression needs {error.name}", remedy="Install python3-zstandard.") from error
    return zstandard
