"""Mail as text: what a document is, encodings, damaged and hostile messages, mbox archives, .eml files, Maildirs."""

import hashlib
import logging
import mailbox
import os
import time
import tracemalloc
from email.message import EmailMessage
from pathlib import Path

import pytest

from hfgpt.data import mail_files, mail_sizes, remarks
from hfgpt.data.html_text import text_of_html
from hfgpt.data.mail_messages import text_of_message
from hfgpt.data.passport import Passport
from hfgpt.data.records import RecordOptions, read_records
from hfgpt.data.sources import ReadingOptions, find_sources, identity, read_documents
from hfgpt.data.splitting import Split
from hfgpt.data.text_pieces import bounds, size_of
from hfgpt.errors import UserError
from hfgpt.hygiene.documents import clean_documents
from hfgpt.hygiene.personal_data import PersonalData

PICTURE = bytes(range(256)) * 20


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    remarks.say_once.cache_clear()
    return tmp_path


def message(subject: str | None, text: str | None = None, *, html: str | None = None, attachment: bool = False, **how):
    made = EmailMessage()
    if subject is not None:
        made["Subject"] = subject
    made["From"], made["To"] = "Jürgen Weiß <j.weiss@example.org>", "ann@example.org"
    made["Received"] = "from mx5.example.org by mail.example.org"
    if text is not None:
        made.set_content(text, **how)
    if html is not None:
        (made.add_alternative if text is not None else made.set_content)(html, subtype="html")
    if attachment:
        made.add_attachment(PICTURE, maintype="image", subtype="png", filename="picture.png")
    return made


def archive(*messages, name: str = "mail.mbox") -> Path:
    box = mailbox.mbox(name)
    for one in messages:
        box.add(one)
    box.close()
    return Path(name)


def read(*names, **options):
    return list(read_documents(find_sources(map(str, names)), ReadingOptions(**options)))


def texts(*names, **options):
    return [document["text"] for document in read(*names, **options)]


def test_one_message_is_one_document_with_its_subject_and_its_decoded_text():
    path = archive(
        message("Größe", "Schöne Grüße aus Köln.\n", cte="quoted-printable"),
        message("Base64", "Ein Text, größer.\n", cte="base64", attachment=True),
        message("Latin", "naïve café\n", charset="iso-8859-1", cte="8bit"),
        message("Both", "the plain text\n", html="<p>the <b>same</b></p>", attachment=True),
        message("Re: Both", "On Monday, Ann wrote:\n> the plain text\n\nYes.\n\n-- \nJürgen\n"),
        message("Lines", "One.\n\nFrom here on, two.\n>From there, three.\n", cte="7bit"),
        message(None, "without a subject\n"),
    )
    assert b"\n>From here on" in path.read_bytes()
    assert texts(path) == [
        "Größe\n\nSchöne Grüße aus Köln.\n",
        "Base64\n\nEin Text, größer.\n",
        "Latin\n\nnaïve café\n",
        "Both\n\nthe plain text\n",
        "Re: Both\n\nOn Monday, Ann wrote:\n> the plain text\n\nYes.\n\n-- \nJürgen\n",
        "Lines\n\nOne.\n\nFrom here on, two.\nFrom there, three.\n",
        "without a subject\n",
    ]
    assert [document["row_id"] for document in read(path)] == ["0", "1", "2", "3", "4", "5", "6"]
    assert set(read(path)[0]) == {"text", "source", "row_id"}


def test_html_is_read_where_there_is_no_plain_text():
    page = (
        "<html><head><title>T</title><style>p {color: red}</style></head><body><script>if (a < b) {}</script>"
        "<p>Dear  Ann,<br>\nfish &amp; chips&nbsp;&euro;5</p><!-- no --><div>A</div><div>B</div>"
        "<ul><li>one<li>two</ul></body></html>"
    )
    path = archive(message("Page", html=page), message("Blank", " \n", html="<p>See here"), message("Image", html="<img src=x>"))
    assert texts(path) == ["Page\n\nDear Ann,\nfish & chips €5\n\nA\nB\n\none\ntwo\n", "Blank\n\nSee here\n"]


@pytest.mark.parametrize("hostile", ["<", "<a ", "<!--", '<a b="', "<![CDATA[", "<script>", "</", "<?", "&", "<p>"])
def test_html_that_is_never_closed_is_read_in_linear_time(hostile):
    start = time.process_time()
    text_of_html(hostile * 30_000)
    assert time.process_time() - start < 5


def test_html_is_read_as_it_is_shown():
    page = "a<!-- <b>no</b> --><!--[if !mso]><!--> b<!--<![endif]--><pre>c\n\nd  e</pre>\n<div>1 < 2</div>\n<div>f<br></div><p>g"
    assert text_of_html(page) == "a b\n\nc\n\nd e\n\n1 < 2\nf\n\ng"


@pytest.mark.parametrize(
    ("charset", "raw", "text", "replaced"),
    [
        ("iso-8859-1", b"na\xefve", "naïve", False),
        ("iso-8859-1", b"\x93quoted\x94 \x80 5", "“quoted” € 5", False),  # windows-1252, as mail programs read it
        ("iso-8859-1", "naïve".encode(), "naïve", False),  # mislabelled, or an archive that was converted to UTF-8
        ("utf-8", b"na\xefve", "na\ufffdve", True),
        ("utf-8", "naïve".encode(), "naïve", False),
        ("us-ascii", "naïve".encode(), "naïve", False),
        ("us-ascii", b"na\xefve", "na\ufffdve", True),
        ("windows-1252", b"na\xefve \x9d", "naïve \ufffd", True),  # 9d is not defined in it
        ("koi8-r", "шлюпка".encode("koi8-r"), "шлюпка", False),
        ("iso-2022-jp", "船".encode("iso-2022-jp"), "船", False),
        ("iso-2022-jp", b"\x1b$B~~\x1b(B", "\ufffd", True),
        ("gb2312", "朱镕基".encode("gbk"), "朱镕基", False),  # one of them is not in GB 2312
        ("x-unknown", "größer".encode(), "größer", False),
        ("utf-7", b"+2AA-", "\ufffd", True),  # half a surrogate pair
        ("zlib", b"text", "text", False),  # a codec, but not of text
    ],
)
def test_each_part_is_decoded_as_it_declares_and_only_invalid_bytes_are_replaced(charset, raw, text, replaced):
    found = text_of_message(b"Subject: s\nContent-Type: text/plain; charset=%s\n\n%s\n" % (charset.encode(), raw))
    assert (found.remark is not None) is replaced
    if replaced:  # how many signs stand for invalid bytes depends on the encoding
        assert found.text.startswith(f"s\n\n{text}")
        found.text.encode()
    else:
        assert found.text == f"s\n\n{text}\n"


def test_what_is_replaced_or_left_out_is_counted_and_said_once(caplog):
    wrong = b"Subject: wrong\nContent-Type: text/plain; charset=utf-8\n\nna\xefve\n"
    hostile = b"Subject: =?utf-7?q?+2AA-?=\n\nIts subject makes Python's parser raise UnicodeEncodeError.\n"
    archive(message("Only", attachment=True), wrong, hostile, wrong, message("Good", "good\n"), message("Blank", " \n\n"))
    for name, raw in (("wrong", wrong), ("none", b""), ("notes", b"not a message\n")):
        Path(f"{name}.eml").write_bytes(raw)
    for _ in range(2):
        assert texts("mail.mbox", "*.eml") == ["wrong\n\nna\ufffdve\n"] * 2 + ["Good\n\ngood\n", "wrong\n\nna\ufffdve\n"]
    said = sorted(record.message.partition(" (line")[0] for record in caplog.records)
    assert said == [
        "sources: 1 document whose structure Python's email package cannot read, left out; the first: mail.mbox, message 2",
        "sources: 1 document without header lines, which are not messages, left out; the first: notes.eml",
        "sources: 3 documents with bytes that are not valid in the declared encoding, which were replaced by \ufffd; the first: "
        "mail.mbox, message 1",
        "sources: 3 documents without a text in the body, left out; the first: mail.mbox, message 0",
    ]


def test_a_file_that_is_not_an_archive_is_refused():
    Path("mail.mbox").write_text("Subject: a single message\n\ntext\n")
    with pytest.raises(UserError, match=r"^mail.mbox does not begin with 'From ', so it is not an mbox archive, or is damaged; a "):
        read("mail.mbox")
    Path("mail.mbox").write_text("")
    assert read("mail.mbox") == []


def test_too_large_a_message_is_refused(monkeypatch):
    monkeypatch.setattr(mail_files, "LARGEST_MESSAGE", 2000)
    archive(message("Small", "small\n"), message("Large", "large\n", attachment=True))
    Path("large.eml").write_bytes(message("Large", "large\n", attachment=True).as_bytes())
    with pytest.raises(UserError, match=r"mail.mbox, line \d+: the message that begins here has more than 2,000 bytes"):
        read("mail.mbox")
    with pytest.raises(UserError, match=r"large.eml has more than 2,000 bytes"):
        read("large.eml")


def test_an_unescaped_line_that_begins_with_from_does_not_begin_a_message():
    text = "From ann Fri Nov 27 21:33:26 2026\r\nSubject: s\r\n\r\nOne.\r\n\r\nFrom here on, two.\r\n\r\n"
    Path("mail.mbox").write_bytes(b"\xef\xbb\xbf" + (text + text.replace("One", "Three")).encode())
    assert texts("mail.mbox") == ["s\n\nOne.\n\nFrom here on, two.\n", "s\n\nThree.\n\nFrom here on, two.\n"]


def test_the_archive_is_left_as_it_is_and_is_read_while_another_program_holds_it():
    path = archive(message("One", "one\n"), message("Two", "two\n"))
    os.utime(path, (1, 1))
    before, state = path.read_bytes(), path.stat()
    box = mailbox.mbox(path)
    box.lock()
    try:
        assert texts(path) == ["One\n\none\n", "Two\n\ntwo\n"]
        (source,) = find_sources([str(path)])
        found = identity(source, ReadingOptions())
    finally:
        box.unlock()
        box.close()
    assert found["sha256"] == hashlib.sha256(before).hexdigest()
    assert found["kind"] == "mbox"
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, state.st_mtime_ns)
    assert [one.name for one in Path().iterdir()] == ["mail.mbox"]


def test_a_large_archive_is_read_message_by_message():
    one = b"From - Fri Nov 27 21:33:26 2026\nSubject: s\n\n" + (b"text " * 1000 + b"\n") * 20 + b"\n"
    Path("mail.mbox").write_bytes(one * 60)
    tracemalloc.start()
    try:
        read = read_documents(find_sources(["mail.mbox"]), ReadingOptions())
        assert sum(len(document["text"]) for document in read) > 6_000_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_folder_of_messages_and_archives_is_read(caplog):
    Path("mail").mkdir()
    archive(message("A", "a\n"), message("B", "b\n"), name="mail/Old.MBOX")
    archive(message("C", "c\n"), name="mail/Inbox")  # as Thunderbird names it
    Path("mail/d.EML").write_bytes(message("D", "d\n").as_bytes())
    Path("mail/Inbox.msf").write_text("From a program")
    assert sorted(texts("mail")) == ["A\n\na\n", "B\n\nb\n", "C\n\nc\n", "D\n\nd\n"]
    for part in ("1 .mbox", "1 .eml", "1 files of kind mbox", " in the folder mail; not read: 1 .msf"):
        assert part in caplog.text
    assert texts("mail/Inbox", "mail/*.eml") == ["C\n\nc\n", "D\n\nd\n"]


def maildir(*messages, name: str = "Maildir") -> None:
    box = mailbox.Maildir(name)
    for number, one in enumerate(messages):
        filed = mailbox.MaildirMessage(one)
        if number % 2:
            filed.set_subdir("cur")
            filed.set_flags("S")
        box.add(filed)
    for place in Path(name).glob("*/*"):  # as Python names them, with a host whose name ends like a text file's
        flags = place.name.partition(":")[2]
        place.rename(place.with_name(f"{place.name.partition('.')[0]}{place.stem[-3:]}.mail.md{flags and ':' + flags}"))


def test_a_maildir_is_read_and_its_host_is_not_taken_for_a_type_of_file(caplog):
    maildir(*(message(f"Number {number}", f"{number}\n") for number in range(4)))
    Path("Maildir/tmp/1.mail.md").write_text("half a mess")
    Path("Maildir/dovecot-uidlist").write_text("1 2 3")
    expected = [f"Number {number}\n\n{number}\n" for number in range(4)]
    assert sorted(texts("Maildir")) == sorted(texts("Maildir/new", "Maildir/cur/*")) == sorted(texts(".")) == expected
    assert "reading 4 files of kind eml in the folder Maildir; not read: 1 dovecot-uidlist" in caplog.text
    maildir(message("Sent", "sent\n"), name="Maildir/.Sent")
    sources = find_sources(["Maildir"])
    assert "sources: Maildir, leaving out 1 hidden mail folder; name them to read them: Maildir/.Sent" in caplog.text
    assert texts("Maildir/.Sent") == ["Sent\n\nsent\n"]
    assert {source.kind for source in sources} == {"eml"}
    assert {source.given for source in sources} == {"Maildir"}
    assert sum(source.name.endswith(".mail.md:2,S") for source in sources) == 2
    (again,) = find_sources([sources[0].name])  # as it is named in the passport
    assert (again.kind, again.file) == ("eml", sources[0].file)


def test_a_share_of_the_messages_is_taken_evenly():
    messages = [message(f"Number {number}", f"{number}\n") for number in range(100)]
    archive(*messages)
    Path("eml").mkdir()
    for number, one in enumerate(messages):
        Path(f"eml/{number:03}.eml").write_bytes(one.as_bytes())
    expected = [f"Number {number}\n\n{number}\n" for number in range(0, 100, 10)]
    assert texts("mail.mbox", read_share=0.1) == texts("eml", read_share=0.1) == expected
    assert [document["row_id"] for document in read("mail.mbox", read_share=0.5)][:3] == ["0", "2", "4"]


def test_the_size_of_mail_is_that_of_its_text_and_of_large_archives_about(monkeypatch):
    messages = [message(f"Number {number}", "a line of text\n" * 60, attachment=True) for number in range(200)]
    path = archive(*messages)
    maildir(*messages[:120])
    exact = sum(len(text) for text in texts(path))
    assert path.stat().st_size > 5 * exact
    assert abs(size_of(find_sources([str(path)])) / exact - 1) < 0.1
    assert abs(size_of(find_sources(["Maildir"])) / exact / 0.6 - 1) < 0.1
    assert bounds(find_sources([str(path)]), most=exact // 4)["read_share"] == pytest.approx(0.25, abs=0.03)
    monkeypatch.setattr(mail_sizes, "READ_BYTES", 2**30)
    assert size_of(find_sources([str(path)])) == exact


@pytest.mark.parametrize(("steps", "said"), [((), 1), ((PersonalData("mask"),), 0)])
def test_that_addresses_are_kept_is_said_once_unless_they_are_masked(steps, said, tmp_path, caplog):
    archive(message("Contact", "Write to ann@example.com.\n"))
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        documents = clean_documents(
            find_sources(["mail.mbox"]), ReadingOptions(), Passport(), steps=steps, split=Split(), cache_dir=tmp_path / str(number)
        )
    assert documents["text"][:] == [f"Contact\n\nWrite to {'ann@example.com' if said else '<EMAIL>'}.\n"]
    assert caplog.text.count("e-mail addresses and phone numbers in the text of messages are kept; --personal_data mask") == said


def test_mail_is_not_a_table():
    archive(message("A", "a\n"))
    with pytest.raises(UserError, match=r"mail.mbox is not a table; rows are read from .csv"):
        list(read_records(["mail.mbox"], RecordOptions()))
    maildir(message("A", "a\n"))
    with pytest.raises(UserError, match="the folder 'Maildir' has no .csv"):
        list(read_records(["Maildir"], RecordOptions()))
