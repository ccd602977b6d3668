"""The rules of plain English in CONTRIBUTING.md that a program can check."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_files import Source

VERBS = {
    "Abandon", "Accumulate", "Add", "Announce", "Apply", "Ask", "Assign", "Build", "Call", "Carry", "Check", "Choose",
    "Claim", "Close", "Collect", "Compare", "Compile", "Compute", "Connect", "Continue", "Copy", "Count", "Create",
    "Decide", "Decode", "Delete", "Divide", "Do", "Draw", "Drop", "End", "Evaluate", "Explain", "Fence", "Fetch",
    "Fill", "Find", "Finish", "Fit", "Forget", "Gather", "Go", "Hand", "Hold", "Import", "Issue", "Join", "Keep",
    "Kill", "Label", "Lay", "Lease", "Let", "Link", "List", "Load", "Log", "Make", "Mark", "Merge", "Multiply", "Offer",
    "Open", "Order", "Pack", "Prepare", "Print", "Probe", "Publish", "Put", "Queue", "Raise", "Re-issue", "Read",
    "Record", "Redirect", "Refuse", "Register", "Release", "Remember", "Remove", "Repeat", "Report", "Require",
    "Reset", "Restart", "Restore", "Retire", "Return", "Revoke", "Run", "Save", "Say", "Score", "Send", "Serve", "Set",
    "Show", "Sort", "Start", "Stop", "Store", "Sum", "Switch", "Take", "Teach", "Tell", "Tokenize", "Train", "Try",
    "Unlock", "Update", "Upload", "Use", "Validate", "Wait", "Wake", "Wrap", "Write", "Yield",
}  # fmt: skip
"""Words that functions' docstrings begin with; a verb that is not among them yet is added here."""

QUESTIONS = {"Are", "Has", "How", "Is", "What", "When", "Where", "Whether", "Which", "Who", "Whoever", "Why"}
"""Words that no docstring begins with: classes, modules, fields and properties begin with a noun."""

STAGES = "learner/objective/stages/"
"""A stage's docstring begins with its formula, whose first letter may be A, the advantage."""

PHRASES = re.compile(
    r"\b(?:(?<!here )(?:is|are|was|were) no\b(?! (?:more|less|longer|later|difference))|puts? up with|patiently"
    r"|bur(?:y|ied|ies)\b|keeps? \w+ company|culprit|heir\b|grave\b|dislikes?|unawares|neighbours' business"
    r"|so many\b)"
)
"""Phrases that a reader stops at, and people where a program is meant."""

PEOPLE = {"blame", "bury", "culprit", "dislike", "grave", "guilty", "heir", "patient", "victim"}
"""Words that no name in the program has: programs are not people."""


def test_a_functions_docstring_begins_with_its_verb(sources: list[Source]) -> None:
    wrong = [
        f"{source.name}:{node.lineno}: {text.splitlines()[0]}"
        for source in sources
        if not source.name.startswith(STAGES)
        for node, text in _docstrings(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_property(node)
        if _first_word(text) not in VERBS
    ]
    assert wrong == []


def test_a_propertys_docstring_begins_with_no_verb(sources: list[Source]) -> None:
    wrong = [
        f"{source.name}:{node.lineno}: {text.splitlines()[0]}"
        for source in sources
        for node, text in _docstrings(source.tree)
        if isinstance(node, ast.FunctionDef) and _is_property(node)
        if _first_word(text) in VERBS
    ]
    assert wrong == []


def test_no_docstring_begins_with_a_question(sources: list[Source]) -> None:
    wrong = [
        f"{source.name}:{line}: {text.splitlines()[0]}"
        for source in sources
        for text, line in _prose(source.tree)
        if _first_word(text) in QUESTIONS
    ]
    assert wrong == []


def test_no_text_has_a_phrase_that_stops_the_reader(sources: list[Source]) -> None:
    wrong = [
        f"{source.name}:{node.lineno}: {match[0]}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if (match := PHRASES.search(node.value))
    ]
    assert wrong == []


def test_no_name_makes_people_of_programs(sources: list[Source]) -> None:
    wrong = [
        f"{source.name}:{line}: {name}"
        for source in sources
        for name, line in _names(source.tree)
        if PEOPLE & _words(name)
    ]
    assert wrong == []


def test_no_page_has_such_a_phrase(root: Path) -> None:
    pages = [
        *root.glob("docs/*.md"),
        *root.glob("*/README.md"),
        *root.glob("src/isentrope/**/README.md"),
        root / "README.md",
    ]
    wrong = [
        f"{page.name}: {match[0]}" for page in pages for match in PHRASES.finditer(page.read_text(encoding="utf-8"))
    ]
    assert len(pages) > 5
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("it is no folder", True),
        ("it is no longer leased", False),
        ("names the culprit", True),
        ("there is no folder", False),
    ],
)
def test_phrases_are_found(text: str, found: bool) -> None:
    assert bool(PHRASES.search(text)) is found


@pytest.mark.parametrize(
    "code", ["def _culprit(): ...", "class TheHeir: ...", "blame = 1", "def f(victim): ...", "from a import blame as b"]
)
def test_people_in_names_are_found(code: str) -> None:
    assert any(PEOPLE & _words(name) for name, _ in _names(ast.parse(code)))


@pytest.mark.parametrize(
    ("text", "word"), [("What it does.", "What"), ("A = R: [N].", "A"), ("Is it?", "Is"), ("`x`, y.", "`x`")]
)
def test_the_first_word_is_found(text: str, word: str) -> None:
    assert _first_word(text) == word


def _docstrings(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield node, text


def _names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield every name that the code makes or uses, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.arg(arg=name) | ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                yield name, node.lineno
            case _:
                pass


def _words(name: str) -> set[str]:
    """Return the words of a name, from either of its styles."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def _prose(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield docstrings, and the strings below fields and constants, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value, node.lineno


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return bool(names & {"property", "cached_property"})


def _first_word(text: str) -> str:
    return re.split(r"[\s:,;.']", text.strip(), maxsplit=1)[0]
