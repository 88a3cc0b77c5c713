"""The lines of a text, out of whatever a file holds: packed, in UTF-16, with line ends of a Mac.

What is no text is told by its first bytes, with the program that makes one of it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from pbt_flow.task import TaskError

from .phrases import listed, shown


class CorpusError(TaskError):
    """Data that cannot be had, read or used; the message says what to do about it."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """The lines of a file."""

    lines: list[str]
    notes: tuple[str, ...] = ()
    """What was done to get them, where the file is no plain UTF-8 text."""


_SAVE_AS = "save it as a text in UTF-8 with tabs between the columns"
_NO_TEXT = {
    b"\x28\xb5\x2f\xfd": "is packed by Zstandard: unpack it with zstd -d",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive: unpack it with 7z x",
    b"Rar!\x1a\x07": "is a RAR archive: unpack it with unrar x",
    b"\x1f\x9d": "is packed by compress: unpack it with uncompress",
    b"\x04\x22\x4d\x18": "is packed by LZ4: unpack it with lz4 -d",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": f"is a document of an old Office: {_SAVE_AS}",
    b"%PDF-": f"is a PDF: {_SAVE_AS}",
    b"{\\rtf": f"is a document in RTF: {_SAVE_AS}",
    b"PAR1": "is in Parquet: give its folder as data=hf:FOLDER",
    b"ARROW1": "is in Arrow: give its folder as data=hf:FOLDER",
    b"SQLite format 3\0": f"is a database of SQLite: {_SAVE_AS}",
    b"\x89PNG\r\n": "is a picture",
    b"\xff\xd8\xff": "is a picture",
    b"version https://git-lfs": "only says where the file is: fetch it with git lfs pull",
}
_MARKUP = re.compile(
    rb"\s*<(\?xml|!doctype|html|srcset|refset|tstset|mteval|tmx|xliff|doc|seg)\b", re.IGNORECASE
)


def read_text(name: str) -> Text:
    """The lines of a text file, which may be packed.

    Raises:
        CorpusError: It cannot be read, or is no text in UTF-8 or UTF-16.
    """
    try:
        raw = Path(name).expanduser().read_bytes()
    except OSError as error:
        raise CorpusError(f"translation: cannot read {name}: {error.strerror or error}") from None
    notes: list[str] = []
    raw = _unpack(raw, name, notes)
    for magic, advice in _NO_TEXT.items():
        if raw.startswith(magic):
            raise CorpusError(f"translation: {name} {advice}")
    if raw[257:262] == b"ustar":
        raise CorpusError(f"translation: {name} is a tar archive: unpack it with tar -xf")
    raw = _as_utf8(raw, name, notes)
    if found := _MARKUP.match(raw):
        tag = found[1].decode()
        raise CorpusError(
            f"translation: {name} begins with <{tag}, so it is a marked-up document and not lines "
            "of text: take the sentences out of it first"
        )
    # Not splitlines(): it breaks at other characters too, and lines would lose their partners.
    alone = raw.count(b"\r") - raw.count(b"\r\n")
    if alone > raw.count(b"\n"):
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        notes.append("its lines end with carriage returns")
    lines = raw.removesuffix(b"\n").split(b"\n")
    return Text(
        lines=_decode(lines, name), notes=tuple(f"{shown(name, 200)}: {note}" for note in notes)
    )


def _unpack(raw: bytes, name: str, notes: list[str]) -> bytes:
    """The content of a packed file, and of what is packed in it."""
    for _ in range(3):
        try:
            if raw.startswith(b"\x1f\x8b"):
                raw, how = gzip.decompress(raw), "gzip"
            elif raw[:3] == b"BZh" and raw[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
                raw, how = bz2.decompress(raw), "bzip2"
            elif raw.startswith(b"\xfd7zXZ\0"):
                raw, how = lzma.decompress(raw), "xz"
            elif raw.startswith((b"PK\x03\x04", b"PK\x05\x06")):
                raw, how = _only_member(raw, name)
            else:
                return raw
        except CorpusError:
            raise
        # Damaged and encrypted archives raise all of these.
        except (
            OSError,
            EOFError,
            ValueError,
            RuntimeError,
            zlib.error,
            lzma.LZMAError,
            zipfile.BadZipFile,
        ) as error:
            raise CorpusError(f"translation: cannot read {name}: {error}") from None
        notes.append(f"unpacked ({how})")
    return raw


def _only_member(raw: bytes, name: str) -> tuple[bytes, str]:
    """The one file in a zip archive, with its name."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        names = archive.namelist()
        if "[Content_Types].xml" in names or "mimetype" in names:
            raise CorpusError(f"translation: {name} is a document of an Office: {_SAVE_AS}")
        files = [
            member
            for member in names
            if not member.endswith("/")
            and not member.startswith("__MACOSX/")
            and not member.rpartition("/")[2].startswith(".")
        ]
        if len(files) != 1:
            inside = listed([shown(file) for file in files], 4) or "nothing"
            raise CorpusError(
                f"translation: {name} is a zip archive with {len(files):,} files ({inside}): "
                "unpack it, and name the file with the sentences"
            )
        return archive.read(files[0]), f"zip, {shown(files[0])}"


def _as_utf8(raw: bytes, name: str, notes: list[str]) -> bytes:
    """The text in UTF-8 without a byte-order mark, if it is in UTF-16 or UTF-32; else as it is."""
    encoding = ""
    if raw.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        encoding = "UTF-32"
    elif raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "UTF-16"
    elif not raw.startswith(b"\xef\xbb\xbf"):
        # Without a mark it shows by its zeros: every second byte of western text is one.
        start = raw[: 2**16]
        zeros = start[0::2].count(0), start[1::2].count(0)
        if 10 * sum(zeros) > 3 * len(start) and min(zeros) * 20 < max(zeros):
            encoding = "UTF-16-LE" if zeros[1] > zeros[0] else "UTF-16-BE"
    if not encoding:
        return raw.removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"translation: {name} begins like a text in {encoding}, but is none at byte "
            f"{error.start:,} ({error.reason}): write it anew in UTF-8"
        ) from None
    notes.append(f"read as {encoding}")
    return text.removeprefix("\ufeff").encode()


def _decode(lines: list[bytes], name: str) -> list[str]:
    decoded = []
    for number, line in enumerate(lines, 1):
        try:
            decoded.append(line.decode())
        except UnicodeDecodeError as error:
            if any(b"\0" in other for other in lines):
                raise CorpusError(
                    f"translation: {name} is no text, or one in an encoding of more bytes than one "
                    f"(line {number} is not UTF-8, and there are zeros): give a text in UTF-8"
                ) from None
            raise CorpusError(
                f"translation: {name}, line {number} is not UTF-8 ({error.reason}): convert it "
                "with iconv -f ENCODING -t UTF-8, where ENCODING is how it was written (often "
                "CP1252 or LATIN1 in the west, GB18030, BIG5, SHIFT_JIS or EUC-KR in the east)"
            ) from None
    return decoded
