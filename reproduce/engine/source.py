"""The data set of a call: the script's own, one that was named, or a substitute that is said loudly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from three_factors.reproduce.engine.console import waiting
from three_factors.reproduce.engine.definition import Figure
from three_factors.reproduce.engine.options import Options

if TYPE_CHECKING:
    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.engine.contract.archive import Archive
    from three_factors.reproduce.engine.definition import Definition
    from three_factors.reproduce.engine.launch.server import Server

TOLD = ("name", "fingerprint", "train", "test", "channels", "size", "classes")


def resolve(
    definition: Definition, options: Options, server: Server, say: Callable[..., None], archive: Archive | None = None
) -> Prepared | None:
    """Returns the prepared data set, None for a definition without data; says which it is.

    Where it is not to be had, but runs on it are in the archive, it is a description without images; not for theory,
    which takes its potential from the images and has nothing in the archive.

    Raises DataError if a data set that was named is not to be had, or the one that is there is damaged.
    """
    from three_factors.datamodules.prepared import cached
    from three_factors.datamodules.sources import DamagedData, DataError, find

    own, data_dir = definition.data, options.data_dir
    if not own:
        return None

    def ready(name: str) -> Prepared:
        known = cached(name, data_dir)
        if known is not None:
            return known
        if find(name, data_dir) is None:
            say(f"downloading {name} to {data_dir}")  # torchvision shows how far it is
            return server.prepare(name, data_dir)
        with waiting(f"preparing {name}: once, then it is kept"):
            return server.prepare(name, data_dir)

    kept = []
    if archive is not None and isinstance(definition, Figure):
        kept = archive.sources([options.data or own[0]])
    if kept and options.plot_only and find(options.data or own[0], data_dir) is None:  # no download for a picture
        say(f"data: {kept[0].name} as in the archive, without images")
        return kept[0]
    why = "as asked for"
    try:
        source = ready(options.data or own[0])
    except DamagedData:
        raise  # data that are there but broken are not a case for a substitute
    except DataError as error:
        if kept:
            say(f"data: {kept[0].name} as in the archive, without images ({error})")
            return kept[0]
        if options.data is not None:
            raise
        why = str(error)
        source = ready(definition.substitute)
    if source.name not in own:
        wanted = " or ".join(own)
        say(
            f"\n  *** NOT {wanted.upper()}: these are the '{source.name}' ({why}).\n"
            f"  *** Nothing below is a result about {wanted}; no claim is judged on it.\n",
            style="bold yellow",
        )
    shape = f"{source.size}x{source.size}x{source.channels}"
    counts = f"{source.train} + {source.test} images {shape}"
    say(f"data: {source.name}, {counts}, content {source.fingerprint} ({source.origin})")
    return source


def described(source: Prepared) -> dict[str, Any]:
    """Returns what specs take from a data set: neither folder nor origin."""
    return {name: getattr(source, name) for name in TOLD}
