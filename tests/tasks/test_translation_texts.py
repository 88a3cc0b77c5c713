"""tasks/translation_texts.py: the lines of a text, whatever the file holds, and what is no text."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from pbt_flow.tasks.translation_texts import CorpusError, read_text

LINES = ["ein schöner Tag\ta fine day", "日本語\tJapanese", "drei\tthree", "vier\tfour"]
TEXT = "".join(f"{line}\n" for line in LINES)
PLAIN = TEXT.encode()


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("pairs.tsv")
        member.size = len(PLAIN)
        archive.addfile(member, io.BytesIO(PLAIN))
    return buffer.getvalue()


def told(value: bytes | str) -> str:
    """The name of a case: what is said of it. What packs a file writes the time into it."""
    return value if isinstance(value, str) else "x"


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (PLAIN, ""),
        (b"\xef\xbb\xbf" + PLAIN, ""),
        (gzip.compress(PLAIN), "unpacked (gzip)"),
        (bz2.compress(PLAIN), "unpacked (bzip2)"),
        (lzma.compress(PLAIN), "unpacked (xz)"),
        (zipped(pairs_tsv=PLAIN), "unpacked (zip, pairs.tsv)"),
        (zipped(a__pairs_tsv=PLAIN, a__=b"", _DS_Store=b"x"), "unpacked (zip, a/pairs.tsv)"),
        (gzip.compress(bz2.compress(PLAIN)), "unpacked (gzip); x: unpacked (bzip2)"),
        (TEXT.encode("utf-16"), "read as UTF-16"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "read as UTF-16"),
        (TEXT.encode("utf-32"), "read as UTF-32"),
        (TEXT.encode("utf-16-le"), "read as UTF-16-LE"),
        (TEXT.encode("utf-16-be"), "read as UTF-16-BE"),
        (gzip.compress(TEXT.encode("utf-16")), "unpacked (gzip); x: read as UTF-16"),
        (PLAIN.replace(b"\n", b"\r"), "its lines end with carriage returns"),
    ],
    ids=told,
)
def test_the_lines_come_out_of_each_kind_of_file_and_the_way_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, note: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").write_bytes(content)
    text = read_text("x")
    lines = text.lines[:-1] if content.endswith(b"\r\n") else text.lines
    assert [line for line in lines if line] == LINES
    assert "; ".join(text.notes) == (f"x: {note}" if note else "")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (bz2.compress(PLAIN)[:-9], "cannot read x: "),
        (lzma.compress(PLAIN)[:-9], "cannot read x: "),
        (gzip.compress(PLAIN)[:-9], "cannot read x: "),
        (zipped(a=PLAIN)[:-30], "cannot read x: "),
        (zipped(a=PLAIN, b=PLAIN), r"zip archive with 2 files \(a, b\): unpack it"),
        (zipped(), r"zip archive with 0 files \(nothing\)"),
        (zipped(mimetype=b"x", content_xml=b"y"), "a document of an Office: save it"),
        (tarred(), "a tar archive: unpack it with tar"),
        (gzip.compress(tarred()), "a tar archive: unpack it with tar"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "packed by Zstandard: unpack it with zstd -d"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(20), "a 7z archive"),
        (b"%PDF-1.7\n", "is a PDF: save it as a text in UTF-8"),
        (b"PAR1" + bytes(20), "is in Parquet: give its folder as data=hf:FOLDER"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "fetch it with git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html>", "begins with <!DOCTYPE, so it is a marked-up document"),
        (b'<srcset setid="x">\n', "begins with <srcset"),
        (TEXT.encode("utf-16")[:-1], "begins like a text in UTF-16, but is none at byte"),
        ("".join(LINES).encode("gb18030"), "line 1 is not UTF-8 .*iconv -f ENCODING .*GB18030"),
        (b"\xff\xfa\0\0" * 9 + b"\xff", "is no text, or one in an encoding of more bytes than one"),
    ],
    ids=told,
)
def test_what_is_no_text_is_refused_with_the_right_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").write_bytes(content)
    with pytest.raises(CorpusError, match=complaint) as caught:
        read_text("x")
    assert ("LATIN1" in str(caught.value)) == ("iconv" in complaint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["drei\rvier", "fünf\u2028sechs", "sieben\x0c\x85acht", "\0neun"])
def test_a_line_ends_at_a_line_feed_and_nowhere_else(tmp_path: Path, line: str) -> None:
    (tmp_path / "x").write_text("".join(f"{text}\n" for text in (*LINES, line)), newline="")
    assert read_text(str(tmp_path / "x")).lines == [*LINES, line]
