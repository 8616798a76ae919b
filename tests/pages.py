"""Extract the commands from the documentation pages and the recipe headers."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent


def commands(page: Path) -> list[list[str]]:
    """Return the arguments after ``python -m`` of each command in the code blocks of a page, in order."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    blocks = [block for language, block in fenced if language in ("", "sh", "bash", "console")]
    lines = [line.split("#")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    matches = [re.search(r"python -m (.*)", line) for line in lines]
    return [shlex.split(match[1]) for match in matches if match]


def recipe_commands() -> list[list[str]]:
    """Return the arguments after ``python -m`` of each command in the headers of the shipped recipes."""
    lines = [line for recipe in sorted((ROOT / "recipes").glob("*.toml")) for line in recipe.read_text().splitlines()]
    matches = [re.match(r"#\s+uv run python -m (.*)", line) for line in lines]
    return [shlex.split(match[1]) for match in matches if match]
