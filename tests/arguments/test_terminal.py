"""What a recipe prints: plain lines to a pipe, bars to a terminal, only warnings and the result with --quiet."""

import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from conftest import ROOT

from hfgpt.arguments.terminal import RESULT, split_quiet

PROGRAM = """
import logging
from tqdm.auto import tqdm
from hfgpt.arguments.terminal import RESULT, lines_and_bars
logger = logging.getLogger("hfgpt")
with lines_and_bars(logger):
    for name in ("reading", "Flattening the indices (num_proc=2)"):
        for number in tqdm(range(3), desc=name):
            if number == 1 and name == "reading":
                logger.info("half way")
    logger.warning("beware")
    logger.log(RESULT, "done")
assert list(tqdm(range(2), desc="after", disable=False)) == [0, 1]
"""


def run(*words: str, terminal: bool = False) -> tuple[str, str]:
    """Return standard output and standard error; with `terminal`, standard error is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # rows, columns
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs if terminal else subprocess.PIPE, text=True)
    os.close(theirs)
    said = os.read(ours, 100_000).decode() if terminal else done.stderr
    os.close(ours)
    assert done.returncode == 0, said
    return done.stdout, said


def test_a_pipe_gets_lines_and_a_terminal_bars_of_what_people_wait_for():
    said, bars = run()
    assert said == "half way\nbeware\ndone\n"
    assert bars.count("reading") == bars.count("Flattening") == 0
    said, bars = run(terminal=True)
    assert said == "half way\nbeware\ndone\n"
    assert "reading: 100%" in bars
    assert "Flattening" not in bars


def test_a_reader_that_has_gone_ends_the_output_and_not_the_work():
    """As `| head -1` does."""
    code = PROGRAM.replace('logger.log(RESULT, "done")', "for number in range(5000):\n        logger.info(number)\n    done = True")
    code += 'import pathlib, sys\nassert done\nprint("worked", file=sys.stderr)\n'
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "worked"), done.stderr
    assert "Error" not in done.stderr


PRINTS = """
import sys
from hfgpt.arguments.keys import OutputKeys
from hfgpt.arguments.launching import check_command_line, launch
check_command_line("hfgpt.arguments.keys:OutputKeys")
def main(args):
    for number in range(5000):
        print(number)
launch(main, OutputKeys)
"""


def test_a_recipe_that_only_prints_ends_quietly_when_its_reader_has_gone_and_may_print_to_a_closed_stream():
    """As `hfgpt generate ... | head -1` and `hfgpt generate ... >&-`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", PRINTS], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
    closed = 'exec "$0" -c "$1" >&-'
    done = subprocess.run(["sh", "-c", closed, sys.executable, PRINTS], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_quiet_leaves_warnings_and_the_result():
    assert run("--quiet", terminal=True)[0] == "beware\ndone\n"
    assert "reading" not in run("--quiet", terminal=True)[1]
    assert run("--quiet", "false")[0] == "half way\nbeware\ndone\n"


@pytest.mark.parametrize(
    ("words", "rest", "quiet"),
    [
        (["a.yaml", "--quiet"], ["a.yaml"], True),
        (["--quiet", "true", "--depth", "2"], ["--depth", "2"], True),
        (["--quiet", "false", "a.yaml"], ["a.yaml"], False),
        (["--quiet", "True", "a.txt"], ["a.txt"], True),
        (["--quiet=true", "true"], ["true"], True),
        (["a.txt", "--quiet=False"], ["a.txt"], False),
        (["--depth", "2"], ["--depth", "2"], False),
    ],
)
def test_quiet_is_a_switch_that_may_be_followed_by_its_value(words, rest, quiet):
    assert split_quiet(words) == (rest, quiet)


def test_a_result_is_louder_than_progress_and_no_warning():
    assert logging.INFO < RESULT < logging.WARNING
