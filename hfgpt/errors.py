"""The errors that a recipe shows as one sentence: what a user can get wrong. All others keep their traceback: they are our bugs."""

import errno


class UserError(ValueError):
    """A mistake in what was given: the message says what was got, what is allowed, why, and what to do."""


class MissingFileError(FileNotFoundError, UserError):
    """A file, folder or repository that was named and is not there."""


class AccessError(PermissionError, UserError):
    """A place that may not be read or written, or a token that may not do what was asked."""


class WrongTypeError(TypeError, UserError):
    """An object of another kind than what is needed."""


class UnreachableError(ConnectionError, UserError):
    """A server that does not answer, or may not be asked."""


class RunStopped(Exception):
    """Training ended at a signal, with a checkpoint to go on from: neither a mistake nor a bug, but no result either."""


# What the machine refuses, whoever asks: no line of ours can know it in advance or do better than to say it.
MACHINE_REFUSES = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file would be larger than this system allows (ulimit -f, or the file system)",
    errno.EROFS: "it lies on a file system that can only be read; give another place",
    errno.EACCES: "this user may not do that; give another place, or change its permissions",
    errno.EPERM: "this user may not do that; give another place, or change its permissions",
    errno.ENAMETOOLONG: "the name is too long for this file system; give a shorter one",
}


def sentence_of(error: BaseException) -> str | None:
    """What a recipe says of an error instead of a traceback; None for a bug of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in MACHINE_REFUSES:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}: {MACHINE_REFUSES[error.errno]}."
    return None
