"""The fork server: what its processes find in their environment, and what is left of that in the figure's."""

import os

import pytest

from three_factors.reproduce.engine.contract.files import IMPORTABLE
from three_factors.reproduce.engine.launch.server import MEMORY, Server

NAMES = ("PYTHONPATH", *MEMORY)


def variables():
    return {name: os.environ.get(name) for name in NAMES}


def tell(pipe):
    pipe.send(variables())


@pytest.mark.parametrize("place", [None, "/somewhere"])
@pytest.mark.parametrize("own", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}])
def test_the_environment_is_the_servers_while_it_starts_and_as_before_afterwards(place, own, monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in (own | ({"PYTHONPATH": place} if place else {})).items():
        monkeypatch.setenv(name, value)
    before = variables()
    found = {}

    def fails():
        with Server()._environment():
            found.update(variables())
            raise RuntimeError("while it starts")

    with pytest.raises(RuntimeError, match="while it starts"):
        fails()
    assert found["PYTHONPATH"].split(os.pathsep) == [str(IMPORTABLE), *filter(None, [place])]
    assert {name: found[name] for name in MEMORY} == {name: str(value) for name, value in MEMORY.items()} | own
    assert variables() == before


@pytest.mark.slow
def test_a_process_of_the_server_keeps_its_memory():
    with Server().running() as context:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=tell, args=(theirs,))
        process.start()
    assert ours.poll(60)
    found = ours.recv()
    process.join()
    assert {name: found[name] for name in MEMORY} == {name: str(value) for name, value in MEMORY.items()}
