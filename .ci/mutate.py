#!/usr/bin/env python3
"""Mutate the packages and count the mutants that their tests notice.

    uv run --with coverage python .ci/mutate.py                     # all packages, thirty mutants each
    uv run --with coverage python .ci/mutate.py segment --jobs 2    # one package
    uv run --with coverage python .ci/mutate.py --again             # the survivors, after new tests
    uv run --with coverage python .ci/mutate.py --report            # the table and the survivors, nothing is run

A mutant is a copy of the code with one small fault: a comparison, an operator, a constant, a bound, a default or an
argument is changed, or a statement is removed. It is killed if a test of its package fails, or takes longer than the
limit; a survivor is a fault that the tests would let pass. The tests run once unchanged, and it is noted which
functions each calls: only tests that call the changed function judge a mutant. What a test does in other processes is
not seen, so that the share killed is, if anything, too low.

Text is left alone (docstrings, messages, descriptions), and so are annotations and the looks of figures.

The choice is seeded and does not depend on the order of the code, so that an edit changes few mutants. Tests run in
copies of the tree; the tree itself is only read. Results are appended to a file of JSON lines, which a run that is
started again continues. Equivalent mutants, which no test can kill, are listed with their reason in EQUIVALENT and are
counted apart.

mutmut and cosmic-ray mutate everything, or filter by path, and would run for days on tests that train networks; neither
draws a seeded sample, balanced over kinds of faults.
"""

import argparse
import ast
import contextlib
import difflib
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("hpa", "segment", "crops", "classify", "aggregate", "pipeline", "cellwise")
LIBRARIES = (
    "pytest", "numpy", "pandas", "pandera.pandas", "pyarrow.parquet", "scipy.ndimage", "scipy.optimize",
    "sklearn.metrics", "skimage.measure", "skimage.filters", "cv2", "matplotlib.pyplot", "pydantic", "rich",
    "typer", "tifffile", "imagehash", "torch", "torchvision", "lightning.pytorch", "albumentations",
    "pytorch_metric_learning.losses", "cellpose.models", "pycocotools.mask", "distributed",
)  # fmt: skip
ELSEWHERE = ("crops/h5sc.py",)  # its tests need anndata, which has an environment of its own in .ci/run
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.MatMult: ast.Mult,
}  # fmt: skip
TEXT_CALLS = frozenset(
    {"print", "echo", "secho", "warn", "info", "debug", "warning", "error", "getLogger", "log", "set_title",
     "set_xlabel", "set_ylabel", "suptitle", "legend"}
)  # fmt: skip
NOT_SWAPPED = frozenset({"isinstance", "getattr", "cast", "zip"})
LOOKS = frozenset(
    {"description", "help", "title", "label", "figsize", "dpi", "linewidth", "linewidths", "lw", "fontsize",
     "labelsize", "markersize", "color", "edgecolor", "zorder", "pad", "rotation", "rich_help_panel"}
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A fault: `old`, the bytes of `path` from `start` to `stop`, becomes `new`; `key` outlives edits elsewhere."""

    package: str
    path: str
    function: str  # or method, the outermost; empty outside of functions
    kind: str
    line: int
    start: int
    stop: int
    old: str
    new: str
    key: str

    def apply(self, source: bytes) -> bytes:
        """Return the source with the fault."""
        return source[: self.start] + self.new.encode() + source[self.stop :]

    def diff(self, source: bytes) -> str:
        """Return the changed lines."""
        before, after = source.decode().splitlines(), self.apply(source).decode().splitlines()
        lines = difflib.unified_diff(before, after, lineterm="", n=0)
        return "\n".join(line for line in lines if line[:3] not in ("---", "+++") and line[:2] != "@@")


class Sites(ast.NodeVisitor):
    """Collects (kind, node, replacement text) of every possible fault in a module."""

    def __init__(self) -> None:
        self.found: list[tuple[str, ast.AST, str]] = []

    def add(self, kind: str, node: ast.AST, new: ast.AST | str) -> None:
        """Note a fault."""
        text = new if isinstance(new, str) else ast.unparse(new)
        if isinstance(new, (ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp)):
            text = f"({text})"
        self.found.append((kind, node, text))

    # What is left alone: text, annotations, assertions for the reader and the type checker.

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Skip text."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Skip assertions, which tell the type checker something."""

    def visit_arg(self, node: ast.arg) -> None:
        """Skip annotations."""

    def visit_Raise(self, node: ast.Raise) -> None:
        """Remove it, and leave its message alone."""
        self.add("removed statement", node, "pass")

    def visit_If(self, node: ast.If) -> None:
        """Negate the condition, unless it is for the type checker."""
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return
        self.add("condition", node.test, f"not ({ast.unparse(node.test)})")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Negate the condition."""
        self.add("condition", node.test, f"(not ({ast.unparse(node.test)}))")
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Change defaults and the body, not the annotations or decorators."""
        plain = [*node.args.posonlyargs, *node.args.args][-len(node.args.defaults) :]
        pairs = [*zip(plain, node.args.defaults, strict=True)] if node.args.defaults else []
        pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        for argument, default in pairs:
            if default is not None and argument.arg != "workers":  # results do not depend on workers by design
                self._constant(default, "default")
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Change defaults of fields and the methods."""
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                if isinstance(statement.value, ast.Call):
                    for value in [
                        *statement.value.args,
                        *(k.value for k in statement.value.keywords if k.arg not in LOOKS),
                    ]:
                        self._constant(value, "default")
                else:
                    self._constant(statement.value, "default")
            else:
                self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Skip the annotation."""
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Remove what fills or changes something; skip __all__."""
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            return
        if all(isinstance(target, (ast.Subscript, ast.Attribute)) for target in node.targets):
            self.add("removed statement", node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Remove it, or change its operator."""
        self.add("removed statement", node, "pass")
        if type(node.op) in OPERATORS:
            self.add("operator", node, ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value))
        self.visit(node.value)

    def visit_Continue(self, node: ast.Continue) -> None:
        """Remove it."""
        self.add("removed statement", node, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        """Remove calls; skip docstrings and log text."""
        if isinstance(node.value, ast.Call) and _called(node.value) not in TEXT_CALLS:
            self.add("removed statement", node, "pass")
            self.visit(node.value)

    # What is changed in expressions.

    def visit_Compare(self, node: ast.Compare) -> None:
        """Include or exclude equality, or turn it round."""
        for at, op in enumerate(node.ops):
            ops = [COMPARISONS[type(op)]() if i == at else other for i, other in enumerate(node.ops)]
            self.add("comparison", node, ast.Compare(node.left, ops, node.comparators))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Change the operator; skip joined text and unions of types."""
        text = any(isinstance(side, ast.JoinedStr) or _is_text(side) for side in (node.left, node.right))
        if not text and type(node.op) in OPERATORS:
            self.add("operator", node, ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Exchange and and or."""
        self.add("operator", node, ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Drop the operator."""
        if not (isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)):
            self.add("operator", node, f"({ast.unparse(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Change numbers and truth values; skip text."""
        self._constant(node, "constant")

    def visit_Slice(self, node: ast.Slice) -> None:
        """Move bounds by one."""
        for bound in (node.lower, node.upper):
            if bound is not None and not isinstance(bound, ast.Constant):
                self.add("off by one", bound, f"{ast.unparse(bound)} + 1")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Exchange the first two arguments; move bounds of ranges; skip log text and the looks of figures."""
        name = _called(node)
        if name in TEXT_CALLS:
            return
        first = node.args[:2]
        # Of different kinds, they would be of different types, which any test notices and the type checker too.
        if len({type(value) for value in first}) == 1 and len(first) == 2 and not _any_starred(first):
            swapped = ast.Call(node.func, [first[1], first[0], *node.args[2:]], node.keywords)
            if ast.dump(first[0]) != ast.dump(first[1]) and not any(map(_is_text, first)) and name not in NOT_SWAPPED:
                self.add("swapped arguments", node, swapped)
        if name in ("range", "arange", "linspace") and not _any_starred(node.args):
            for bound in node.args[:2]:
                self.add("off by one", bound, f"{ast.unparse(bound)} + 1")
        if name in ("max", "min") and isinstance(node.func, ast.Name):
            self.add("operator", node.func, "min" if name == "max" else "max")
        self.visit(node.func)
        for value in [*node.args, *(k.value for k in node.keywords if k.arg not in LOOKS)]:
            self.visit(value)

    def _constant(self, node: ast.AST, kind: str) -> None:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            node_value = node.operand
            if isinstance(node_value, ast.Constant) and type(node_value.value) in (int, float):
                self.add(kind, node, repr(-node_value.value + 1))
            return
        if not isinstance(node, ast.Constant):
            if kind == "constant" or isinstance(node, ast.Call):
                return
            self.visit(node)
            return
        if isinstance(node.value, bool):
            self.add(kind, node, repr(not node.value))
        elif isinstance(node.value, int):
            self.add(kind, node, repr(node.value + 1))
            if node.value > 1:
                self.add(kind, node, repr(node.value - 1))
        elif isinstance(node.value, float):
            self.add(kind, node, repr(node.value * 1.5 if node.value else 1.0))


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))


def _any_starred(nodes: list[ast.expr]) -> bool:
    return any(isinstance(node, ast.Starred) for node in nodes)


def functions_of(node: ast.AST, prefix: str = "", *, header: bool = True) -> Iterator[tuple[int, str]]:
    """Yield each line of the functions and methods, with or without their header, with their qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from functions_of(child, f"{prefix}{child.name}.", header=header)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = child.lineno if header else child.body[0].lineno
            yield from ((line, prefix + child.name) for line in range(first, (child.end_lineno or 0) + 1))
        else:
            yield from functions_of(child, prefix, header=header)


def mutants_of(package: str, path: Path, seed: int) -> Iterator[Mutant]:
    """Yield every possible mutant of a module."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    sites, module = Sites(), ast.parse(source)
    sites.visit(module)
    functions = dict(functions_of(module))
    name = path.relative_to(ROOT).as_posix()
    seen: Counter[str] = Counter()
    for kind, node, new in sites.found:
        start = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        stop = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        line = source[starts[node.lineno - 1] : starts[node.lineno]].decode().strip()  # type: ignore[attr-defined]
        old = source[start:stop].decode()
        fault = f"{seed} {name} {kind} {line} {old} {new}"
        seen[fault] += 1
        key = hashlib.sha256(f"{fault} {seen[fault]}".encode()).hexdigest()[:16]
        at: int = node.lineno  # type: ignore[attr-defined]
        yield Mutant(package, name, functions.get(at, ""), kind, at, start, stop, old, new, key)


def choose(package: str, n: int, seed: int) -> list[Mutant]:
    """Choose n mutants of a package: the kinds take turns, and each gives those with the smallest hash."""
    kinds: dict[str, list[Mutant]] = defaultdict(list)
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.relative_to(ROOT).as_posix() not in ELSEWHERE:
            for mutant in mutants_of(package, path, seed):
                kinds[mutant.kind].append(mutant)
    piles = [sorted(kinds[kind], key=lambda mutant: mutant.key, reverse=True) for kind in sorted(kinds)]
    chosen: list[Mutant] = []
    while len(chosen) < n and any(piles):
        for pile in piles:
            while pile:
                mutant = pile.pop()
                if _compiles(mutant):
                    chosen.append(mutant)
                    break
    return chosen[:n]


def _compiles(mutant: Mutant) -> bool:
    try:
        compile(mutant.apply((ROOT / mutant.path).read_bytes()), mutant.path, "exec")
    except SyntaxError:
        return False
    return True


class Copy:
    """A copy of the tree in which faults are planted and tests run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in listed.stdout.split("\0"):
            if name and (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, root / name)
        # Compiled files are checked by content: a fault that changes neither size nor second must not be missed.
        compileall = ["-m", "compileall", "-q", "--invalidation-mode", "checked-hash", *PACKAGES]
        subprocess.run([sys.executable, *compileall], cwd=root, check=True)

    def judges(self, mutant: Mutant, calls: "Calls") -> tuple[list[str], set[str]]:
        """Return the test files that judge a mutant, the quickest first, and the ids of their tests."""
        module = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        first = set()
        if ">>> " in (self.root / mutant.path).read_text():
            first.add(f"tests/test_doctests.py::test_examples_show_what_the_code_does[{module}]")
        if mutant.path.endswith("config.py"):
            first.add("tests/pipeline/test_recipe.py")  # holds the defaults of all sections
        chosen = {}
        for inside in (f"{mutant.path}:{mutant.function}", f"{mutant.path}:"):
            chosen = chosen or {
                test: (seconds, file)
                for file, tests in calls.items()
                for test, (seconds, called) in tests.items()
                if (inside in called if mutant.function else any(name.startswith(inside) for name in called))
            }
        if not mutant.function or not chosen:
            chosen |= {
                test: (seconds, file)
                for file, tests in calls.items()
                if module in (self.root / file).read_text()
                for test, (seconds, _) in tests.items()
            }
        cost: Counter[str] = Counter()
        for seconds, file in chosen.values():
            cost[file] += seconds  # type: ignore[assignment]
        files = [test.partition("::")[0] for test in sorted(first)] + sorted(cost, key=lambda file: cost[file])
        return files, first | chosen.keys()


Calls = dict[str, dict[str, tuple[float, list[str]]]]
"""Of each test file, for each test: seconds and the functions of the package that it calls (``path:name``)."""


class Watch:
    """A plugin of pytest that notes which functions of a package each test calls, in this process."""

    def __init__(self, root: Path, package: str) -> None:
        self.root = root
        self.coverage = coverage.Coverage(data_file=None, config_file=False, source=[str(root / package)])
        self.test, self.tests = "", dict[str, tuple[float, list[str]]]()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
        """Note apart what a fixture calls that several tests share."""
        if fixturedef.scope != "function":
            self.coverage.switch_context(fixturedef.argname)
        try:
            return (yield)
        finally:
            self.coverage.switch_context(self.test)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Function) -> Iterator[None]:
        """Note what a test calls, how long it takes and which fixtures it has."""
        start, self.test = time.process_time(), item.nodeid
        self.coverage.switch_context(self.test)
        try:
            return (yield)
        finally:
            self.tests[self.test] = (time.process_time() - start, item.fixturenames)

    def calls(self) -> Calls:
        """Return what has been noted."""
        called: dict[str, set[str]] = defaultdict(set)
        data = self.coverage.get_data()
        for file in data.measured_files():
            path = Path(file).relative_to(self.root).as_posix()
            functions = dict(functions_of(ast.parse(Path(file).read_bytes()), header=False))
            for line, contexts in data.contexts_by_lineno(file).items():
                for context in contexts if line in functions else ():
                    called[context].add(f"{path}:{functions[line]}")
        found: Calls = defaultdict(dict)
        for test, (seconds, fixtures) in self.tests.items():
            names = sorted(called[test].union(*(called[fixture] for fixture in fixtures)))
            found[test.partition("::")[0]][test] = (seconds, names)
        return found


class Choice:
    """A plugin of pytest that keeps only some tests."""

    def __init__(self, kept: Collection[str]) -> None:
        self.kept = kept

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drop the others."""
        items[:] = [i for i in items if i.nodeid in self.kept or i.nodeid.partition("::")[0] in self.kept]


def start_tests(copy: Copy, files: list[str], plugin: Watch | Choice, limit: int, scratch: Path) -> int:
    """Run tests in a fork of this process, until the first fails, and return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))  # unlike the clock, fair on a busy machine
        output = os.open(scratch / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(copy.root)
        (scratch / "tmp").mkdir()
        os.environ |= {"PYTHONPATH": str(copy.root), "TMPDIR": str(scratch / "tmp")}
        tempfile.tempdir = None
        sys.path[0] = str(copy.root)  # before the installed package, which is the tree itself
        # Plugins of pytest are imported already, and their assertions are none of ours.
        words = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-x", "-q", "-n", "0", "--no-header", "--tb=short"]
        with plugin.coverage.collect() if isinstance(plugin, Watch) else contextlib.nullcontext():
            code = int(pytest.main([*words, "-p", "no:cacheprovider", *files], [plugin])) if files else 0
        if isinstance(plugin, Watch):
            (scratch / "calls").write_text(json.dumps(plugin.calls()))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0 if code in (0, 5) else 1)  # 5: nothing to run


def why(output: Path) -> str:
    """Return what pytest said about a failure."""
    lines = output.read_text(errors="replace").splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return failed[0][:200] if failed else "\n".join(lines)[-500:]


def watch(package: str, path: Path, limit: int) -> Calls:
    """Run the tests of a package that changed since the last time, and return what all of them call.

    Parameters
    ----------
    package
        Name of the package.
    path
        JSON file of what is known: checksum and calls of each test file.
    limit
        Processor time in seconds.
    """
    known = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        scratch, tree = Path(folder), Path(folder) / "0" / "tree"  # in a folder of its own, as tests look for ../shared
        tree.mkdir(parents=True)
        copy = Copy(tree)
        sums = {
            file.relative_to(tree).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted((tree / "tests" / package).rglob("test_*.py"))
        }
        changed = [file for file, checksum in sums.items() if known.get(file, [""])[0] != checksum]
        if changed:
            pid = start_tests(copy, changed, Watch(tree, package), limit, scratch)
            if os.waitpid(pid, 0)[1]:
                sys.exit(f"expected the tests of {package} to pass unchanged, found {why(scratch / 'output')}")
            calls = json.loads((scratch / "calls").read_text())
            known |= {file: (sums[file], calls.get(file, {})) for file in changed}
            path.write_text(json.dumps(known))
    return {file: known[file][1] for file in sums}


@dataclass
class Run:
    """The tests of one mutant, running in a process of their own on one copy."""

    mutant: Mutant
    copy: Copy
    limit: int
    calls: Calls

    def __post_init__(self) -> None:
        """Plant the fault and start the tests."""
        self.path = self.copy.root / self.mutant.path
        self.source = self.path.read_bytes()
        if self.source[self.mutant.start : self.mutant.stop].decode() != self.mutant.old:
            sys.exit(f"expected {self.mutant.path} as it was when this run began, found it changed; start again")
        self.begun = time.monotonic()
        self.scratch = Path(tempfile.mkdtemp(prefix="mutant-"))
        files, tests = self.copy.judges(self.mutant, self.calls)
        self.path.write_bytes(self.mutant.apply(self.source))
        self.pid = start_tests(self.copy, files, Choice(tests), self.limit, self.scratch)

    def result(self) -> dict[str, object] | None:
        """Return the result if the tests have ended, with the fault taken out again."""
        done, status = os.waitpid(self.pid, os.WNOHANG)
        seconds = time.monotonic() - self.begun
        late = seconds > 5 * self.limit
        if not done and not late:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # the tests may have started processes
        if not done:
            _, status = os.waitpid(self.pid, 0)
        reason = why(self.scratch / "output")
        if os.WIFSIGNALED(status):
            reason = f"stopped by {signal.Signals(os.WTERMSIG(status)).name}"
        survived = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
        diff = self.mutant.diff(self.source)
        self.path.write_bytes(self.source)
        shutil.rmtree(self.scratch, ignore_errors=True)
        record = {"result": "survived" if survived else "killed", "reason": "" if survived else reason}
        return asdict(self.mutant) | record | {"seconds": round(seconds, 1), "diff": diff}


def judge(mutants: list[Mutant], jobs: int, limit: int, calls: Calls) -> Iterator[dict[str, object]]:
    """Yield the result of each mutant of a package, several at a time."""
    waiting = list(reversed(mutants))
    with tempfile.TemporaryDirectory(prefix="mutate-") as scratch:
        idle, running = [], []
        for number in range(min(jobs, len(mutants))):
            folder = Path(scratch) / str(number) / "tree"  # in a folder of its own, as tests look for ../shared
            folder.mkdir(parents=True)
            idle.append(Copy(folder))
        try:
            while waiting or running:
                while waiting and idle:
                    running.append(Run(waiting.pop(), idle.pop(), limit, calls))
                time.sleep(0.2)
                for run in list(running):
                    record = run.result()
                    if record is not None:
                        running.remove(run)
                        idle.append(run.copy)
                        yield record
        finally:
            for run in running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(run.pid, signal.SIGKILL)


def read_results(path: Path) -> dict[str, dict[str, object]]:
    """Return the latest result of each mutant, by key."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {record["key"]: record for record in map(json.loads, lines)}


def report(chosen: list[Mutant], results: dict[str, dict[str, object]]) -> None:
    """Print the survivors with their change, and the share killed of each package."""
    equivalent = json.loads(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}
    rows = []
    for package in dict.fromkeys(mutant.package for mutant in chosen):
        counts: Counter[str] = Counter()
        for mutant in (m for m in chosen if m.package == package and m.key in results):
            record = results[mutant.key]
            counts["equivalent" if mutant.key in equivalent else str(record["result"])] += 1
            if record["result"] != "killed" and mutant.key not in equivalent:
                print(f"{mutant.key}  {mutant.path}:{mutant.line}  {mutant.kind}\n{record['diff']}\n")
        judged = counts["killed"] + counts["survived"]
        share = f"{counts['killed'] / judged:.0%}" if judged else "-"
        rows.append((package, judged + counts["equivalent"], counts["equivalent"], counts["killed"], share))
    print("| package | mutants | equivalent | killed | share |\n|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def main() -> None:
    """Judge the mutants that have no result yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", default=list(PACKAGES), help="packages to mutate; default: all")
    parser.add_argument("--mutants", type=int, default=30, help="mutants per package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1)), help="mutants judged at a time")
    parser.add_argument("--limit", type=int, default=300, help="seconds of processor time after which one is killed")
    parser.add_argument(
        "--results", type=Path, default=Path("mutants.jsonl"), help="JSON lines, continued if it exists"
    )
    parser.add_argument("--again", action="store_true", help="judge the survivors again")
    parser.add_argument("--report", action="store_true", help="only report")
    options = parser.parse_args()
    unknown = set(options.packages) - set(PACKAGES)
    if unknown:
        parser.error(f"expected packages among {', '.join(PACKAGES)}, found {', '.join(sorted(unknown))}")
    chosen = [m for package in options.packages for m in choose(package, options.mutants, options.seed)]
    results = read_results(options.results)
    if options.report:
        report(chosen, results)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that running tests are stopped too
    # The tests run in forks of this process: torch and its like take longer to import than most tests to run.
    os.environ["OMP_NUM_THREADS"] = "1"
    for library in LIBRARIES:
        importlib.import_module(library)
    survivors = {key for key, record in results.items() if record["result"] == "survived"}
    for package in options.packages:
        mutants = [m for m in chosen if m.package == package]
        left = [m for m in mutants if m.key not in results or (options.again and m.key in survivors)]
        if not left:
            continue
        calls = watch(package, options.results.with_suffix(".calls.json"), 10 * options.limit)
        for record in judge(left, options.jobs, options.limit, calls):
            with options.results.open("a") as file:
                file.write(json.dumps(record) + "\n")
            where = f"{record['path']}:{record['line']}"
            print(f"{record['result']:8} {record['seconds']:6} s  {where}  {record['kind']}", flush=True)
    report(chosen, read_results(options.results))


if __name__ == "__main__":
    main()
