"""Kills a run at random moments, again and again, through the fork server; it must end as one that nobody killed."""

import random
import signal
import time

from tests.reproduce.killing import begin, end
from tests.reproduce.leavings import assert_same
from three_factors.reproduce.engine.contract.run_folder import RunFolder


class Soak:
    """A run and its uninterrupted twin in `out`, in the environment that `job` is.

    Args:
        gpu: the one to take, None for the CPU.
    """

    def __init__(self, server, spec, measurements, job, out, gpu=None):
        self.server, self.spec, self.measurements, self.gpu = server, spec, measurements, gpu
        self.job, self.out, self.whole = job, out, RunFolder(out / "whole" / spec.key)
        self.begin(self.whole).join()
        start = time.monotonic()
        again = RunFolder(out / "again" / spec.key)
        self.begin(again).join()
        self.seconds = time.monotonic() - start
        assert_same(again.path, self.whole.path)

    def begin(self, folder):
        return begin(self.server, folder, self.spec, self.job, self.measurements, self.gpu)

    def complete(self, folder):
        return folder.complete(self.measurements) is not None

    def kill(self, times, seed=0):
        """Returns how many runs were ended that way; each is compared with the uninterrupted one."""
        moments, ended, killed = random.Random(seed), 0, 0
        folder = RunFolder(self.out / "soaked 0" / self.spec.key)
        while killed < times or not self.complete(folder):
            process = self.begin(folder)
            patience = 300 if killed == times else moments.uniform(0.05, 0.5) * max(self.seconds, 1.0)
            process.join(timeout=patience)
            if process.exitcode is None:
                assert killed < times, "the run does not end"
                end(process)
                killed += 1
            assert process.exitcode in (0, -signal.SIGKILL), folder.log.read_text()[-2000:]
            if self.complete(folder):
                assert_same(folder.path, self.whole.path)
                ended += 1
                if killed < times:
                    folder = RunFolder(self.out / f"soaked {ended}" / self.spec.key)
        return ended
