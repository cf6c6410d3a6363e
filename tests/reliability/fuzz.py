"""Disturb tiny runs at random, repeat the same command until it is done, and expect the weights of an undisturbed run.

    python -m tests.reliability.fuzz --minutes 10 --seed 1 [--processes 2]

A round picks one of the four recipes (for preferences also one of the losses) and a few disturbances, one after another: kill
-9, signals, a full disk, a second run at the same time; checkpoint files that are flipped, cut, emptied, deleted, mixed up or
foreign; links and files that are named like checkpoints; a wrong clock. Expected at the end: every weight file has the SHA-256 of
the undisturbed run, nothing is left behind, and one more start prints "already done". Until then each start exits with 0, with a
signal's documented code or, only if the disk is full or another run has the folder, with one sentence and 1. A traceback, a
hang, other weights and leftovers are findings.

Round N of `--seed S` is round 0 of `--seed S+N`: `--seed S+N --rounds 1` repeats it, as far as time allows.
"""

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import mischief
from lab import NAMES, Job, make_materials, start, weights, words_of

LOSSES = ("dpo", "kto", "orpo")
STOPPED = (75, 129, 130, 138, 143)
MOST_STARTS = 12
CURE = "--overwrite true"


PEER_GONE = "another process of this run has ended"


class Find(Exception):
    """Something that must not happen."""


@dataclass
class Reference:
    """An undisturbed run of a recipe: its weights, how long it took, and checkpoints of a run from another seed."""

    words: list[str]
    weights: dict[str, str]
    seconds: float
    steps: list[int]
    foreign: list[Path]


@dataclass
class Lab:
    """What the rounds share: a folder for everything, a small disk, and the reference runs, made on demand."""

    folder: Path
    disk: mischief.Disk
    world: int
    materials: Path
    references: dict[str, Reference] = field(default_factory=dict)

    def reference(self, name: str, loss: str | None) -> Reference:
        kind = name if loss is None else f"{name}-{loss}"
        if kind not in self.references:
            words = words_of(name, self.materials, world=self.world)
            words += ["--loss", loss] if loss else []
            straight, other = self.folder / kind, self.folder / f"{kind}-other"
            begun = time.monotonic()
            job = start(name, words, straight, world=self.world)
            if job.wait() != 0:
                raise Find(f"the undisturbed run ended with an error:\n{job.said}")
            seconds = time.monotonic() - begun
            key = "--seeds" if "--seeds" in words else "--seed"
            at = words.index(key) if key in words else len(words)
            foreign = [*words[:at], key, "7", *words[at + (3 if key == "--seeds" else 2) :]]
            job = start(name, foreign, other, world=self.world)
            job.runs_until(lambda: len(mischief.checkpoints(other)) > 1)
            job.send(signal.SIGKILL)
            job.wait()
            found = [path for path in mischief.checkpoints(other) if mischief.files(path)]
            steps = [int(path.name.rpartition("-")[2]) for path in mischief.checkpoints(straight)]
            self.references[kind] = Reference(words, weights(straight), seconds, steps, found)
        return self.references[kind]


class Round:
    """One run and what happens to it."""

    def __init__(self, lab: Lab, seed: int):
        self.lab = lab
        self.chance = random.Random(seed)
        self.name = self.chance.choice(NAMES)
        self.loss = self.chance.choice(LOSSES) if self.name == "align_preferences" else None
        self.reference = lab.reference(self.name, self.loss)
        self.folder = lab.disk.folder / f"round-{seed}"
        self.log = self.folder.with_name(f"{self.folder.name}.log")
        self.story: list[str] = []
        self.starts = 0
        self.done = False
        self.damaged = False
        self.cure: list[str] = []

    def run(self) -> None:
        """Raises: Find."""
        for _ in range(self.chance.choice([1, 1, 2, 2, 3])):
            if self.done:
                break
            self.chance.choice(WHILE_IT_WORKS)(self)
            for _ in range(self.chance.choice([0, 1, 1, 2])):
                if not self.done and self.folder.is_dir():
                    self.damaged = True
                    self.chance.choice(WHILE_IT_RESTS)(self)
        while not self.done:
            self.end(self.start(), what="at the end")
        self.check_result()

    def start(self, **settings) -> Job:
        self.starts += 1
        if self.starts > MOST_STARTS:
            raise Find(f"not at its end after {MOST_STARTS} starts")
        self.log.unlink(missing_ok=True)
        words, self.cure = [*self.reference.words, *self.cure], []
        return start(self.name, words, self.folder, world=self.lab.world, **settings)

    def end(self, job: Job, *, what: str, codes: tuple[int, ...] = (), sentences: str = "", peers_die: bool = False) -> int:
        """Wait for the end of a start. Correct are 0, `codes`, and 1 with one sentence that matches `sentences`."""
        try:
            code = job.wait()
        except TimeoutError as hang:
            raise Find(f"{what}: {hang}") from None
        said = job.said
        if code == 1 and not said and -signal.SIGINT in codes:
            return code  # Ctrl-C before the script: multiprocessing ends the process
        if "Traceback (most recent call last)" in said and not peers_die:
            raise Find(f"{what}: a traceback:\n{said}")
        if code == 1 and not peers_die:
            errors = {line for line in said.splitlines() if line.startswith("error: ") and PEER_GONE not in line}
            sentence = errors.pop() if len(errors) == 1 else ""
            if self.damaged and CURE in sentence:  # the best checkpoint is lost
                self.story.append("the best checkpoint is lost")
                self.cure = CURE.split()
            elif not sentences or not re.search(sentences, sentence):
                raise Find(f"{what}: exit code 1, and not one right sentence:\n{said}")
        elif code != 0 and code not in codes and not peers_die:
            raise Find(f"{what}: exit code {code}:\n{said}")
        self.done = code == 0
        return code

    def wait_for_a_moment(self, job: Job) -> None:
        """A random moment: at any time, or while or after a checkpoint is written."""
        if self.chance.random() < 0.5:
            moment = self.chance.uniform(0, self.reference.seconds)
            job.runs_for(moment)
            self.story.append(f"after {moment:.1f} s")
            return
        number, later = self.chance.randint(1, 4), self.chance.choice([0, self.chance.uniform(0, 0.3)])
        seen: set[Path] = set()

        def written() -> bool:
            seen.update(self.folder.rglob("*checkpoint-*"))
            return len(seen) >= number

        job.runs_until(written)
        time.sleep(later)
        self.story.append(f"{later:.2f} s after {number} checkpoints were seen")

    # While it runs

    def kill(self) -> None:
        job = self.start()
        self.wait_for_a_moment(job)
        ranks = self.chance.choice([(0,), (1,), (0, 1)]) if self.lab.world > 1 else (0,)
        self.story[-1] = f"kill -9 of {'process ' + str(ranks[0]) if len(ranks) < self.lab.world else 'all'} {self.story[-1]}"
        job.send(signal.SIGKILL, ranks)
        self.end(job, what=self.story[-1], codes=(-signal.SIGKILL,), peers_die=True)

    def signal(self) -> None:
        job = self.start()
        self.wait_for_a_moment(job)
        number = self.chance.choice(mischief.SIGNALS)
        ranks = self.chance.choice([(0,), (1,), (0, 1)]) if self.lab.world > 1 else (0,)
        what = f"{number.name} to {ranks} {self.story.pop()}"
        early = not job.said  # until Python has its handlers, the system's default ends the process
        job.send(number, ranks[:1])
        if len(ranks) > 1:
            later = self.chance.choice([0.0, 0.05, 0.45])
            time.sleep(later)
            job.send(number, ranks[1:])
            what += f", {later} s apart"
        twice = self.chance.random() < 0.2
        if twice:
            time.sleep(self.chance.uniform(0, 0.2))
            job.send(number, ranks)
            what += ", twice"
        codes = (*STOPPED, *((-number,) if early or twice else ()))
        code = self.end(job, what=what, codes=codes, peers_die=self.lab.world > 1 and (early or twice))
        self.story.append(f"{what}: {code}")

    def full_disk(self) -> None:
        if not self.lab.disk.mounted:
            return self.file_too_large()
        room = self.chance.randrange(1_500_000)
        with self.lab.disk.with_room_for(room):
            code = self.end(self.start(), what=f"room for {room:,} bytes", sentences=r"No space left|bytes are free|are free")
        self.story.append(f"room for {room:,} bytes: {code}")

    def file_too_large(self) -> None:
        limit = self.chance.randrange(30_000, 260_000)
        code = self.end(self.start(file_limit=limit), what=f"files of {limit:,} bytes at most", sentences="File too large")
        self.story.append(f"files of {limit:,} bytes at most: {code}")

    def second_run(self) -> None:
        job = self.start()
        self.wait_for_a_moment(job)
        what = f"a second run {self.story.pop()}"
        second = Job(
            self.name, [*self.reference.words, "--output_dir", self.folder], self.log.with_suffix(".second"), world=self.lab.world
        )
        code = self.end(second, what=what, sentences=r"another (process|run)")
        self.story.append(f"{what}: {code}")
        first_done = self.done
        if first_done and "already done" not in second.said and job.running:
            raise Find(f"{what}: both ran:\n{second.said}")
        self.end(job, what=f"the first run beside {what}", sentences=r"another (process|run)" if first_done else "")

    # While it is stopped

    def any_checkpoint(self) -> Path | None:
        found = [path for path in mischief.checkpoints(self.folder) if mischief.files(path)]
        return self.chance.choice([found[-1], self.chance.choice(found)]) if found else None

    def a_file(self) -> None:
        if checkpoint := self.any_checkpoint():
            path = self.chance.choice(mischief.files(checkpoint))
            how = self.chance.choice(sorted(mischief.TO_A_FILE))
            mischief.TO_A_FILE[how](path, self.chance)
            self.story.append(f"{path.relative_to(self.folder)} {how}")

    def swapped(self) -> None:
        own = [path for path in mischief.checkpoints(self.folder) if mischief.files(path)]
        if own:
            other = self.chance.choice([*own, *self.reference.foreign])
            if name := mischief.swap(own[-1], other, self.chance):
                self.story.append(f"{name} of {own[-1].name} from {'a foreign ' if other not in own else ''}{other.name}")

    def planted(self) -> None:
        self.story.append(mischief.plant(self.folder, self.chance))

    def foreign(self) -> None:
        if self.reference.foreign:
            step = self.chance.choice([2, 4, 6, 98])
            mischief.plant_foreign(self.folder, self.chance.choice(self.reference.foreign), step)
            self.story.append(f"checkpoint-{step} belongs to another run")

    def clock(self) -> None:
        days = self.chance.choice([-400, -1, 1, 400])
        mischief.move_clock(self.folder, days * 86400, self.chance)
        self.story.append(f"files {abs(days)} days {'older' if days < 0 else 'newer'}")

    def mode(self) -> None:
        if checkpoint := self.any_checkpoint():
            path = self.chance.choice(mischief.files(checkpoint))
            path.chmod(self.chance.choice([0o444, 0o400] if os.geteuid() else [0o444, 0o400, 0o000]))
            self.story.append(f"{path.relative_to(self.folder)} has mode {path.stat().st_mode & 0o777:o}")

    # At the end

    def check_result(self) -> None:
        found = weights(self.folder)
        if found != self.reference.weights:
            differ = sorted(
                name for name in found.keys() | self.reference.weights if found.get(name) != self.reference.weights.get(name)
            )
            raise Find(f"other weights: {', '.join(differ)}\n{self.log.read_text()}")
        own = {self.folder, self.log, self.log.with_suffix(".second")}
        left = [path for path in self.folder.rglob("*") if path.name.startswith(".")]
        left += [path for path in self.lab.disk.folder.iterdir() if path not in own]
        if left:
            raise Find(f"left lying: {', '.join(str(path) for path in left)}")
        before = self.bytes()
        job = self.start()
        self.end(job, what="one more start")
        if "already done" not in job.said:
            raise Find(f"one more start is not already done:\n{job.said}")
        if self.bytes() != before:
            raise Find("one more start has changed bytes")

    def bytes(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


WHILE_IT_WORKS = [Round.kill, Round.kill, Round.kill, Round.signal, Round.signal, Round.full_disk, Round.file_too_large,
                  Round.second_run]  # fmt: skip
WHILE_IT_RESTS = [Round.a_file, Round.a_file, Round.a_file, Round.swapped, Round.planted, Round.foreign, Round.clock, Round.mode]


def fuzz(
    *, seed: int, folder: Path, materials: Path | None = None, minutes: float = 1e9, rounds: int = 10**9, processes: int = 1
) -> tuple[int, list[int]]:
    """Run rounds until the time is over. Returns their number, and the seeds of those with a finding."""
    deadline = time.monotonic() + 60 * minutes
    disk = mischief.Disk(folder / "disk")
    finds: list[int] = []
    number = 0
    try:
        lab = Lab(folder, disk, processes, materials or make_materials(folder / "materials"))
        while number < rounds and time.monotonic() < deadline:
            begun, one = time.monotonic(), Round(lab, seed + number)
            try:
                one.run()
                result = "identical"
            except Find as find:
                finds.append(seed + number)
                result = f"FIND {find}"
                kept = folder / f"find-{seed + number}"
                if one.folder.is_dir():
                    shutil.copytree(one.folder, kept, symlinks=True, ignore_dangling_symlinks=True, dirs_exist_ok=True)
            said = "; ".join(one.story) or "nothing"
            took = f"{one.starts} starts, {time.monotonic() - begun:.0f} s"
            print(f"seed {seed + number}: {one.loss or one.name}: {said} -> {result}, {took}", flush=True)
            for path in disk.folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            number += 1
    finally:
        disk.close()
    return number, finds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--rounds", type=int, default=10**9)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--folder", type=Path, help="default: a temporary one, which stays where there are finds")
    args = parser.parse_args()
    if args.minutes == 1e9 and args.rounds == 10**9:
        parser.error("give --minutes or --rounds")
    folder = args.folder or Path(tempfile.mkdtemp(prefix="hfgpt-fuzz-"))
    number, finds = fuzz(seed=args.seed, folder=folder, minutes=args.minutes, rounds=args.rounds, processes=args.processes)
    print(f"{number} rounds of {args.processes} process{'es' * (args.processes > 1)}, {len(finds)} finds"
          f"{': seeds ' + ', '.join(map(str, finds)) + ', folders in ' + str(folder) if finds else ''}")  # fmt: skip
    if not finds and args.folder is None:
        shutil.rmtree(folder)
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
