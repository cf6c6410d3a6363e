"""What can happen to a run: to its files while it is stopped, and to its processes while it runs."""

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# To files at rest


def checkpoints(folder: Path) -> list[Path]:
    """Folders that are named like checkpoints of a run or of one of its seeds, by step."""
    found = [path for place in ("", "seed-*/") for path in folder.glob(f"{place}checkpoint-*")]
    found = [path for path in found if path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: (path.parent.name, int(path.name.rpartition("-")[2])))


def files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def flip(path: Path, chance: random.Random, size: int = 64) -> None:
    """Change some bytes in the middle of a file."""
    content = bytearray(path.read_bytes())
    start = chance.randrange(max(1, len(content) - size))
    content[start : start + size] = bytes(byte ^ 255 for byte in content[start : start + size])
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size) if path.stat().st_size else 0)


def empty(path: Path, chance: random.Random) -> None:
    os.truncate(path, 0)


def nul(path: Path, chance: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


def garbage(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(chance.choice([1, 100, 20_000])))


# Each of these changes one file of a checkpoint.
TO_A_FILE: dict[str, Callable[[Path, random.Random], None]] = {
    "flipped": flip, "cut": truncate, "emptied": empty, "made NUL": nul, "deleted": delete, "replaced by garbage": garbage,
}  # fmt: skip


def swap(checkpoint: Path, other: Path, chance: random.Random) -> str | None:
    """Replace a file by the file of the same name from another checkpoint; None if no common file differs."""
    names = [path.relative_to(checkpoint) for path in files(checkpoint)]
    both = [name for name in names if (other / name).is_file() and (other / name).read_bytes() != (checkpoint / name).read_bytes()]
    if not both:
        return None
    name = chance.choice(both)
    shutil.copyfile(other / name, checkpoint / name)
    return str(name)


def plant(folder: Path, chance: random.Random) -> str:
    """Create something that has the name of a newer checkpoint but is not one."""
    place, step = folder / "checkpoint-99", chance.choice(["empty folder", "file", "link to nothing", "link to a checkpoint"])
    if place.is_symlink() or place.exists():
        return "checkpoint-99 is there already"
    if step == "empty folder":
        place.mkdir()
    elif step == "file":
        place.write_text("not a checkpoint")
    else:
        own = checkpoints(folder)
        place.symlink_to(own[-1] if own and step.endswith("a checkpoint") else "nothing")
    return f"checkpoint-99 is an {step}" if step == "empty folder" else f"checkpoint-99 is a {step}"


def plant_foreign(folder: Path, foreign: Path, step: int) -> None:
    """Put in a whole checkpoint of another run, under a step of this one."""
    shutil.rmtree(folder / f"checkpoint-{step}", ignore_errors=True)
    shutil.copytree(foreign, folder / f"checkpoint-{step}")


def move_clock(folder: Path, seconds: float, chance: random.Random) -> None:
    """Shift the times of some files by this many seconds, as a wrong clock would."""
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink() and chance.random() < 0.7:
            before = path.stat().st_mtime
            os.utime(path, (before + seconds, before + seconds))


# To the disk


class Disk:
    """A small file system of its own if this user may mount one; otherwise a folder, which is never full."""

    def __init__(self, folder: Path, *, megabytes: int = 64):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
        try:
            self.mounted = subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            self.mounted = False

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    @contextmanager
    def with_room_for(self, num_bytes: int) -> Iterator[None]:
        """Leave at most this many bytes free."""
        ballast = self.folder / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, self.free_bytes() - num_bytes))
        try:
            yield
        finally:
            ballast.unlink()


# To processes


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
