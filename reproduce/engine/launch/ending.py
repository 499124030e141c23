"""How a script ends: its exit status, and one line for whatever it could not do."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import NoReturn

from three_factors.reproduce.engine.contract.job import PREEMPTED
from three_factors.reproduce.engine.launch import interrupts
from three_factors.reproduce.engine.launch.interrupts import Submitted, Terminated
from three_factors.reproduce.engine.options import InputError, refuse

# The disk is full or not to be written to; every file on it is whole, because each was written beside and renamed.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}


def end_with(work: Callable[[], int]) -> NoReturn:
    """Does the work and ends the process with its status.

    0 done; 1 something is missing, or could not be written; 2 bad input; 130 Ctrl-C; 75 asked to exit (SIGTERM).
    """
    try:
        try:
            status = work()
        except Exception as error:
            if interrupt := interrupts.behind(error):
                raise interrupt from error
            raise
    except Submitted:
        print("detached; the same command collects the runs, and waits for those that are not done")
        status = 0
    except Terminated:
        status = _say(PREEMPTED, "asked to exit; the next call goes on where the runs are")
    except KeyboardInterrupt:
        status = _say(130, "interrupted; the next call goes on from what the runs have saved")
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        status = _say(1, f"error: {where}{error.strerror}; what is finished is kept, and the next call goes on")
    except Exception as error:
        from three_factors.datamodules.sources import DataError
        from three_factors.reproduce.engine.contract.block import DamagedArchive

        if isinstance(error, InputError | DataError | DamagedArchive):
            refuse(error)
        raise
    sys.stdout.flush()
    raise SystemExit(status)


def _say(status: int, words: str) -> int:
    print(words, file=sys.stderr)
    return status
