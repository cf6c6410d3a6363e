# ruff: noqa: RUF001 (curly quotes and dashes are what this is about)
import shlex
import subprocess

import pytest

from hfgpt.data.encoding import decoded_lines, decoded_text
from hfgpt.errors import UserError

TEXT = "It’s a “quiet” morning – café 5 €.\r\nZweite Zeile\rdritte\n\x0c\u2028 \0 Ende"
WESTERN = "It’s a “quiet” morning – café.\n"


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_read_and_the_text_is_the_same(tmp_path, codec):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode(codec))
    assert decoded_text(path) == TEXT


@pytest.mark.parametrize("mark", ["utf-16-be", "utf-32-be"])
def test_big_endian_marks_are_read_too(tmp_path, mark):
    path = tmp_path / "a.txt"
    path.write_bytes(("\ufeff" + TEXT).encode(mark))
    assert decoded_text(path) == TEXT


def test_lines_end_at_lf_crlf_and_a_lone_cr_and_nowhere_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\ntwo\rthree\n\nfour\u2028five\x0c\x0b\x85six".encode())
    assert list(decoded_lines(path)) == [
        (1, "one\r\n"), (2, "two\r"), (3, "three\n"), (4, "\n"), (5, "four\u2028five\x0c\x0b\x85six"),
    ]  # fmt: skip


def advice_for(path):
    with pytest.raises(UserError) as refusal:
        list(decoded_lines(path))
    return str(refusal.value)


@pytest.mark.parametrize(
    ("codec", "text", "named"),
    [
        ("cp1252", WESTERN * 50, "windows-1252"),
        ("latin-1", "Ein schöner Tag, naïve Leute im Café.\n" * 50, "latin1"),
        ("utf-16-le", WESTERN * 50, "UTF-16 without a byte order mark"),
        ("utf-16-be", "Сегодня хорошая погода, пойдём гулять в парк.\n" * 50, "UTF-16 without a byte order mark"),
    ],
)
def test_the_command_that_a_refusal_names_makes_the_file_right(tmp_path, codec, text, named):
    path = tmp_path / "it's a file.txt"
    path.write_bytes(text.encode(codec))
    message = advice_for(path)
    assert str(path) in message
    assert named in message
    command = message[message.index("mv ") :].removesuffix(".")
    subprocess.run(command, shell=True, check=True)
    assert decoded_text(path) == text
    assert (tmp_path / "it's a file.txt.bak").read_bytes() == text.encode(codec)
    assert shlex.split(command)[1] == str(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        # Advice to convert from latin1 would have led to training on mojibake.
        ("你好世界，今天天气很好，我们去公园玩。\n".encode("gbk"), "its encoding cannot be determined"),
        ("Сегодня хорошая погода, пойдём гулять.\n".encode("koi8-r"), "its encoding cannot be determined"),
        ("Ein schöner Tag im Café, größer als\n".encode() * 9 + b"na\xefve\n", "the text around it is UTF-8"),
        (bytes(range(256)) * 4, "probably not text"),
        ("cut off".encode("utf-16")[:-1], "not valid UTF-16, although its byte order mark says so"),
        (b"%PDF-1.4 all of it ASCII", "is a PDF file, not plain text"),
        (b"{\\rtf1\\ansi Word}", "RTF"),
        (b"PK\x03\x04rest", r".docx"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"a.txt".ljust(257, b"\0") + b"ustar\0" + b"\0" * 249, "is a tar archive, not plain text; unpack it"),
        (b"ARROW1\0\0", "is an Arrow file"),
        (b"SQLite format 3\0", "is an SQLite database"),
        (b"%!PS-Adobe-3.0\n", "is a PostScript file"),
    ],
)
def test_what_no_command_can_convert_gets_no_command(tmp_path, content, sentence):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    message = advice_for(path)
    assert sentence in message
    assert "iconv" not in message


def test_line_and_byte_are_those_of_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfgood\nna\xefve\n" + b"x\n" * 100_000)
    assert "a.txt, line 2, byte 11 of the file: 0xef is not valid UTF-8" in advice_for(path)


def test_lines_that_are_not_valid_can_be_left_out_and_are_handed_over(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\nna\xefve\nthree\n\xff")
    left_out = []
    assert list(decoded_lines(path, on_invalid=left_out.append)) == [(1, "one\n"), (3, "three\n")]
    assert [str(error).partition(":")[0].rpartition(", ")[0] for error in left_out] == [f"{path}, line 2", f"{path}, line 4"]


@pytest.mark.parametrize("content", [b"", b"\0", b"a\0b", b"a\0b\0c", b"\n"])
def test_a_short_file_with_a_nul_is_a_text(tmp_path, content):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert decoded_text(path) == content.decode()
