"""Entries of the exit codes, from the tree of errors."""

from collections.abc import Iterator

from isentrope.errors import IsentropeError
from isentrope.handbook.docstrings import unwrapped
from isentrope.handbook.entry import HelpEntry, Sort

OTHERS = {
    0: "All was done, or the run was stopped as asked: by Ctrl-C or SIGTERM. `--stopped-code` names another.",
    1: "`isentrope methods certify` has found a result that depends on how a batch is divided.",
    2: "The command line could not be read: an unknown command or option, or a missing argument.",
    130: "Ended at once by a second Ctrl-C. The same command continues from the last checkpoint.",
}
"""Codes without an error of ours."""


def exit_codes() -> list[HelpEntry]:
    """Return every exit code of the commands, with the errors behind it."""
    texts = {code: [text] for code, text in OTHERS.items()}
    for kind in _tree(IsentropeError):
        texts.setdefault(kind.exit_code, []).append(f"{kind.__name__}: {unwrapped(kind.__doc__ or '')}")
    return [HelpEntry(Sort.EXIT_CODE, str(code), "\n\n".join(texts[code]), "exit_codes") for code in sorted(texts)]


def _tree(kind: type[IsentropeError]) -> Iterator[type[IsentropeError]]:
    for below in kind.__subclasses__():
        if below.__module__ == IsentropeError.__module__:
            yield below
            yield from _tree(below)
