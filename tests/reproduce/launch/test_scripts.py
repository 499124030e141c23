"""Scripts run beside one another: each as if it were alone, none outlives an interrupt."""

import signal
import sys
import time

import psutil
import pytest

from three_factors.reproduce.engine.launch.scripts import BROKEN, run_scripts

ECHO = """
import os, sys, time
if __name__ == "__main__":
    print("heard", *sys.argv[1:])
    print("in", os.path.basename(sys.path[0]), __file__ == sys.argv[0], file=sys.stderr)
    time.sleep(float(sys.argv[2]))
    sys.exit(int(sys.argv[1]))
"""
WAITS = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.fixture
def script(tmp_path):
    def write(text):
        (tmp_path / "place").mkdir(exist_ok=True)
        file = tmp_path / "place" / "script.py"
        file.write_text(text)
        return str(file)

    return write


def test_each_is_told_as_it_ended_in_the_order_that_was_asked_for(script):
    file = script(ECHO)
    commands = [[file, str(status), str(seconds)] for status, seconds in ((0, 1.0), (2, 0), (1, 0.2), (0, 0))]
    argv, path = list(sys.argv), list(sys.path)
    ended = run_scripts(commands, at_once=2)
    assert [of.command for of in ended] == commands
    assert [of.status for of in ended] == [0, 2, 1, 0]
    assert [of.printed for of in ended] == [f"heard {status} {seconds}\n" for _, status, seconds in commands]
    assert {of.complaints for of in ended} == {"in place True\n"}
    assert (sys.argv, sys.path) == (argv, path)


def test_a_traceback_is_no_missing_figure(script):
    (ended,) = run_scripts([[script("import sys\nprint(sys.argv)\n1 / 0\n")]], at_once=2)
    assert ended.status == BROKEN
    assert ended.complaints.strip().endswith("ZeroDivisionError: division by zero")
    assert "script.py" in ended.printed


def test_never_more_than_so_many_run_at_once(script, tmp_path):
    text = """
import os, pathlib, sys, time
here = pathlib.Path(sys.argv[1])
mine = here / str(os.getpid())
mine.touch()
time.sleep(0.2)
print(len(list(here.iterdir())))
mine.unlink()
"""
    here = tmp_path / "running"
    here.mkdir()
    ended = run_scripts([[script(text), str(here)]] * 6, at_once=3)
    assert {of.status for of in ended} == {0}
    assert max(int(of.printed) for of in ended) <= 3


def test_an_interrupt_ends_those_that_run_and_no_other_begins(script, tmp_path):
    file, begun = script(WAITS), [tmp_path / str(i) for i in range(5)]

    def interrupt(*_):
        if all(of.exists() and of.read_text() for of in begun[:2]):
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_scripts([[file, str(of)] for of in begun], at_once=2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not any(psutil.pid_exists(int(of.read_text())) for of in begun[:2])
    time.sleep(0.2)
    assert not any(of.exists() for of in begun[2:])
