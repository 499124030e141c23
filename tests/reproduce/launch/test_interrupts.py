"""A Ctrl-C that some library swallows still ends the runs."""

import multiprocessing
import signal
import time
from contextlib import suppress

import pytest

from three_factors.reproduce.engine.contract.folders import SimulationFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.launch import interrupts
from three_factors.reproduce.engine.launch.runner import Runner, Watcher
from three_factors.reproduce.engine.launch.task import Task
from three_factors.reproduce.theory.potentials import Quadratic
from three_factors.reproduce.theory.simulation import Gaussian, Simulation


@pytest.fixture
def listening():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.listen()
    yield
    signal.signal(signal.SIGINT, before)


class Server:
    """Starts processes that would not end by themselves."""

    def __init__(self):
        self.started = []

    def start(self, function, *arguments):
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        process.start()
        self.started.append(process)
        return process


class Swallower(Watcher):
    """In whose hands the interrupt arrives, and who keeps it to itself."""

    def polled(self, active):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_swallowed_ctrl_c_ends_every_run(tmp_path, listening):
    server = Server()
    spec = Simulation(Quadratic(((1.0,),)), 0.1, 1, Gaussian(), 1, (1,), "gibbs", 1)
    tasks = [Task(Item(f"run {i}", 0, spec), SimulationFolder(tmp_path / str(i)), Job()) for i in range(3)]
    with pytest.raises(KeyboardInterrupt):
        Runner(server, jobs=2).run(tasks, Swallower())
    assert len(server.started) == 2
    assert not any(process.is_alive() for process in server.started)


def test_a_process_that_was_told_to_ignore_ctrl_c_goes_on_ignoring_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupts.listen()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
