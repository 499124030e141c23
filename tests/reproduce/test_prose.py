"""Nothing scientific hangs on prose: with other words for every label, claim and note all verdicts are the same."""

import json
import subprocess
import sys

import pytest

from tests.reproduce.script import PATIENCE, ROOT


@pytest.fixture(scope="module")
def found():
    """how it is worded -> figures and theories -> what became of their claims."""
    answers = {}
    for how in ("as it is", "reworded"):
        command = [sys.executable, "-m", "tests.reproduce.other_words", how]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        answers[how] = json.loads(done.stdout)
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["figures", "theories"])
def test_other_words_change_no_verdict_and_no_number(kind, found):
    ours, others = (found[how][kind] for how in ("as it is", "reworded"))
    assert ours.keys() == others.keys()
    for name in ours:
        assert others[name]["judged"] == ours[name]["judged"], name
        both = list(zip(ours[name]["words"], others[name]["words"]))
        assert all(a[0] != b[0] for a, b in both)  # every claim has another text,
        assert all(a[1] != b[1] for a, b in both if a[1] and " " in a[1])  # and every note
        assert len(set(others[name]["labels"])) == len(ours[name]["labels"])


@pytest.mark.slow
def test_labels_are_other_words_too(found):
    """But for those of one letter."""
    for name, of in found["as it is"]["figures"].items():
        pairs = zip(of["labels"], found["reworded"]["figures"][name]["labels"])
        assert all(a != b for a, b in pairs if len(a) > 1), name
