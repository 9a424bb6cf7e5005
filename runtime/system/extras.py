"""How the packages of an extra are installed, wherever edgewise itself came from."""

from __future__ import annotations

import re
import shlex


def install_command(extra: str) -> str:
    """What installs the packages that an extra needs.

    edgewise is on no package registry, so its name with an extra would install nothing, or another's package.
    What its own metadata lists can be had from one, whether it came from a source tree or from a wheel.
    Where it runs from a source tree without having been installed, that tree is named.
    """
    # Its import is most of what `errors` would cost, which everything imports and few make an error of.
    from importlib import metadata

    clause = re.compile(rf"""\s*;\s*(.*?)(?: and )?extra == ["']{re.escape(extra)}["']\s*""")
    try:
        listed = metadata.requires("edgewise") or []
    except metadata.PackageNotFoundError:
        listed = []
    needed: list[str] = []
    for requirement in listed:
        package, found, rest = requirement.partition(";")
        match = clause.fullmatch(found + rest)
        if match is not None:
            needed.append(f"{package.strip()}; {match[1]}" if match[1] else package.strip())
    if not needed:
        return f'pip install ".[{extra}]" in the folder of edgewise\'s source'
    return f"pip install {shlex.join(needed)}"
