"""The gallery's command line: reads the results folder, and writes the pictures, the page and the README's outcome."""

from __future__ import annotations

from typing import NoReturn

from three_factors.reproduce.engine.contract.files import CHECKOUT
from three_factors.reproduce.engine.definition import Contents
from three_factors.reproduce.engine.launch import interrupts
from three_factors.reproduce.engine.launch.ending import end_with
from three_factors.reproduce.engine.options import parse
from three_factors.reproduce.engine.publish import gallery


def main(doc: str, contents: Contents, arguments: list[str] | None = None) -> NoReturn:
    """Writes the gallery and the README's outcome, and ends the process with the status of `ending.end_with`."""
    interrupts.listen()

    def work() -> int:
        shown = gallery.shown_of(contents, parse(doc, arguments, gallery.GalleryOptions))
        gallery.write(shown)
        count, where = len({one.script for one in shown}), gallery.GALLERY.relative_to(CHECKOUT)
        print(f"written: {count} of {len(contents.page)} figures to {where} and {gallery.README.name}")
        return 0

    end_with(work)
