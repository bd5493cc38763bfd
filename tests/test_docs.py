"""The documentation speaks of what exists: links, make targets, commands and their options."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from evoprune.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")])
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PARAMETERS = {name: command.params for name, command in typer.main.get_command(app).commands.items()}  # type: ignore[attr-defined]
COMMANDS = {name: {option for parameter in found for option in parameter.opts} for name, found in PARAMETERS.items()}
REQUIRED = {
    name: {parameter.opts[0] for parameter in found if parameter.required and parameter.opts[0].startswith("--")}
    for name, found in PARAMETERS.items()
}


def code_of(text: str) -> list[str]:
    """Code spans, and the lines of code blocks without their comments."""
    blocks = re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    rest = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    paragraphs = re.split(r"\n(?=\s*(?:\n|\||[-*] ))", rest)
    spans = [" ".join(span.split()) for part in paragraphs for span in re.findall(r"`([^`]+)`", part)]
    return [re.sub(r"\s#.*", "", line).strip().removeprefix(".venv/bin/") for line in (*lines, *spans)]


def anchors_of(text: str) -> set[str]:
    """What links may point to: headings in lower case, without marks, blanks as hyphens."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_commands_exist(page: Path) -> None:
    text = page.read_text()
    for target, _, anchor in re.findall(r"\]\(([^)#\s]*)(#([^)\s]+))?\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            there = page.parent / target if target else page
            assert there.exists(), f"broken link {target}"
            assert not anchor or anchor in anchors_of(there.read_text()), f"broken link {target}#{anchor}"
    for line in code_of(text):
        words = line.split()
        if words[:1] == ["make"] and len(words) > 1:
            assert words[1] in TARGETS or "=" in words[1], line
        if words[:1] == ["python"] and words[1:2] and words[1].endswith(".py") and "/" in words[1]:
            source = (ROOT / words[1]).read_text()
            options = {word.partition("=")[0] for word in words if word.startswith("--") and len(word) > 2}
            assert options <= set(re.findall(r'"(--[a-z-]+)"', source)), line
        if words[:1] == ["evoprune"] and len(words) > 1 and words[1].isalpha() and words[1].islower():
            assert words[1] in COMMANDS, line
            options = {word.partition("=")[0] for word in shlex.split(line) if word.startswith("--")}
            assert options <= COMMANDS[words[1]] | {"--help"}, line
            if len(words) > 2 and not words[2].startswith("-"):  # to be typed, not only spoken of
                assert options >= REQUIRED[words[1]], line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_number_is_left_to_be_filled_in(page: Path) -> None:
    assert "@@" not in page.read_text()


def test_there_are_pages_and_commands() -> None:
    assert {"demo", "test"} <= TARGETS
    assert "--sparsity" in COMMANDS["prune"]
    assert code_of("runs `evoprune prune a\n--wrong` and `b`\n\n| `c` |\n| `d`") == ["evoprune prune a --wrong", *"bcd"]
    assert REQUIRED["train"] == {"--data", "--out"}
    assert anchors_of("# A\n## To ship it: 2:4, `x`\n") == {"a", "to-ship-it-24-x"}
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"} <= {page.name for page in PAGES}
