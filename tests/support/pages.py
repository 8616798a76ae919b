"""Extract the commands from the documentation pages and the recipe headers."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


_OURS = r"(?:hpa|segment|crops|classify|aggregate|pipeline|cellwise) .+|bench\.\w+.*"


def commands(page: Path) -> list[list[str]]:
    """Return each command in the code blocks of a page, in order, as a package and its arguments.

    The package of ``python -m segment run work/my`` is ``segment``, that of ``cellwise run work/my`` is ``cellwise``.
    """
    lines = [line.split("#")[0].strip() for block in blocks(page, "", "sh") for line in block.splitlines()]
    matches = [re.fullmatch(rf"(?:[A-Z_]+=\S+ )*(?:uv run )?(?:python -m )?({_OURS})", line) for line in lines]
    return [shlex.split(match[1]) for match in matches if match]


def python_blocks(page: Path) -> list[str]:
    """Return the Python code blocks of a page, in order."""
    return blocks(page, "python")


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the code blocks of a page in any of some languages, in order, with continued lines joined."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ") for language, block in fenced if language in languages]


def recipe_commands() -> list[list[str]]:
    """Return the arguments after ``python -m`` of each command in the headers of the shipped recipes."""
    lines = [line for recipe in sorted((ROOT / "recipes").glob("*.toml")) for line in recipe.read_text().splitlines()]
    matches = [re.match(r"#\s+uv run python -m (.*)", line) for line in lines]
    return [shlex.split(match[1]) for match in matches if match]
