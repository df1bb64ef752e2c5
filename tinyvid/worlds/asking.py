"""The question families and formats of a set, which all worlds check alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tinyvid.errors import ConfigError, suggest


def askable(
    families: Collection[str], formats: Sequence[str], *, known: Mapping[str, Collection[str]], forms: Sequence[str]
) -> list[str]:
    """Return those of the families that can be asked in at least one of the formats.

    Args:
        families: Names of families.
        formats: Names of formats.
        known: The formats of each family of the world.
        forms: The formats of the world.

    Raises:
        ConfigError: A family or a format is unknown, or no family supports any of the formats.
    """
    for form in formats:
        if form not in forms:
            raise ConfigError(f"formats: {form!r} is unknown. {suggest(str(form), forms)}")
    for name in families:
        if name not in known:
            raise ConfigError(f"families: {name!r} is unknown. {suggest(str(name), known)}")
    found = [name for name in families if not set(known[name]).isdisjoint(formats)]
    if not found:
        raise ConfigError(
            f"the families {', '.join(families) or 'none'} have no questions in the formats "
            f"{', '.join(formats) or 'none'}; add a family or a format"
        )
    return found
