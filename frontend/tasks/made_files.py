"""Small files of many types, made byte for byte the same on every machine."""

from __future__ import annotations

import binascii
import gzip
import io
import struct
import tarfile
import wave
import zipfile
import zlib

import numpy as np

from bitfold.frontend.tasks.made_texts import PROSE, TEXTS


def made_files() -> list[tuple[str, bytes]]:
    """Label and content of every file, in a fixed order."""
    texts = [(label, text.encode("utf-8")) for label, text in TEXTS.items()]
    return [*texts, *((label, make()) for label, make in _MAKERS.items())]


def _noise(size: int) -> bytes:
    """Bytes without a pattern that no library's version changes: checksums of a counter."""
    return b"".join(struct.pack("<I", zlib.crc32(struct.pack("<I", i))) for i in range(size // 4))


def _png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checked = kind + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", binascii.crc32(checked))

    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(32 * 3)) for y in range(32))
    head = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def _bmp() -> bytes:
    pixels = bytes((x * 5 + y * 3) % 256 for y in range(32) for x in range(96))
    head = struct.pack("<IiiHHIIiiII", 40, 32, 32, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + head + pixels


def _gif() -> bytes:
    """A picture of 16 by 16; the table is cleared often enough for codes to stay 3 bits wide."""
    palette = bytes(range(0, 240, 20))
    codes, bits, length = [], 0, 0
    body = bytearray()
    for pixel in range(256):
        codes += [4, pixel % 4] if pixel % 2 == 0 else [pixel % 4]
    for code in [*codes, 5]:
        bits |= code << length
        length += 3
        while length >= 8:
            body.append(bits & 255)
            bits, length = bits >> 8, length - 8
    body.append(bits)
    head = b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0x91, 0, 0) + palette
    image = b"," + struct.pack("<HHHHB", 0, 0, 16, 16, 0) + b"\x02"
    blocks = b"".join(
        bytes([len(body[i : i + 255])]) + bytes(body[i : i + 255]) for i in range(0, len(body), 255)
    )
    return head + image + blocks + b"\0;"


def _wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(b"".join(struct.pack("<h", (i * i) % 8192 - 4096) for i in range(2000)))
    return file.getvalue()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as out:
        for name in ("notes.txt", "more/notes.txt"):
            out.writestr(zipfile.ZipInfo(name, (2024, 3, 1, 6, 12, 0)), PROSE)
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as out:
        info = tarfile.TarInfo("notes.txt")
        info.size = len(PROSE)
        out.addfile(info, io.BytesIO(PROSE.encode()))
    return file.getvalue()


def _gzip() -> bytes:
    return gzip.compress(_noise(3000), compresslevel=0, mtime=0)


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(600, dtype="<f4").reshape(20, 30))
    return file.getvalue()


def _pdf() -> bytes:
    stream = b"BT /F1 18 Tf 72 700 Td (The harbour was quiet that morning.) Tj ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
    size = len(objects) + 1
    return out + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, start)


_MAKERS = {
    "png": _png,
    "bmp": _bmp,
    "gif": _gif,
    "wav": _wav,
    "zip": _zip,
    "tar": _tar,
    "gzip": _gzip,
    "npy": _npy,
    "pdf": _pdf,
}
"""By the label that they should get."""
