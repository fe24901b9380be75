"""`vpd doctor`: is everything there that models need?"""

from __future__ import annotations

import typer


def doctor() -> None:
    """Check the installation and name causes of trouble.

    Exit status 1 if something will not work.
    """
    from vpd.cli.diagnosis import diagnose

    verdicts = []
    for finding in diagnose():
        print(f"{finding.verdict:<5} {finding.subject}: {finding.message}", flush=True)
        verdicts.append(finding.verdict)
    bad, warned = verdicts.count("bad"), verdicts.count("warn")
    if bad or warned:
        print(f"{bad} bad, {warned} to look at.")
    else:
        print("All is well.")
    if bad:
        raise typer.Exit(1)
