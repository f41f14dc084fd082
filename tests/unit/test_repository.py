"""What holds for the code as a whole: importing is cheap and does nothing, links lead somewhere.

Which part may import which is checked by import-linter (`make check`).
"""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from leptonai.cli.__main__ import root

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src"
HEAVY = {
    "alembic",
    "cryptography",
    "httpx",
    "matplotlib",
    "numpy",
    "obstore",
    "rich",
    "scipy",
    "sklearn",
    "sqlalchemy",
    "starlette",
    "torch",
    "uvicorn",
}


def modules(package: str) -> list[str]:
    """All its modules by name, but for the scripts, which run when imported."""
    files = sorted((SOURCES / package).rglob("*.py"))
    names = [".".join(file.relative_to(SOURCES).with_suffix("").parts) for file in files]
    scripts = (".__main__", ".migrations.env")  # the latter is Alembic's
    return [name.removesuffix(".__init__") for name in names if not name.endswith(scripts)]


def imports_of(file: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def run_python(program: str, *arguments: str) -> object:
    """What a fresh interpreter prints as JSON."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("module", "but"),
    [
        ("leptonai", set()),
        ("leptonai.errors", set()),
        ("leptonai.client", set()),
        ("leptonai.cli.__main__", set()),
        ("leptonai.core.scheduler", {"numpy"}),  # no solver in the control plane
        ("leptonai.core.scheduler.optimize", {"numpy"}),
    ],
)
def test_the_light_side_is_imported_without_anything_heavy(module, but):
    loaded = run_python(
        "import importlib, json, sys\n"
        "importlib.import_module(sys.argv[1])\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))",
        module,
    )
    assert HEAVY & set(loaded) - but == set()


def test_the_supervisor_needs_nothing_but_the_standard_library():
    """It runs in environments that are not ours."""
    files = sorted((SOURCES / "leptonai" / "supervisor").rglob("*.py"))
    needed = {name for file in files for name in imports_of(file)}
    ours = {name for name in needed if re.match(r"\.|leptonai\.supervisor\b", name)}
    assert {name.split(".")[0] for name in needed - ours} - sys.stdlib_module_names == set()


IMPORT_AND_WATCH = """
import importlib, json, os, sys
WATCHED = ("socket.__new__", "_thread.start_new_thread", "subprocess.Popen", "os.fork")
environment, acts = dict(os.environ), []
sys.addaudithook(lambda event, _: acts.append(event) if event in WATCHED else None)
for name in sys.argv[1:]:
    importlib.import_module(name)
    if acts or os.environ != environment:
        break
print(json.dumps([name, acts, dict(os.environ) == environment]))
"""


def test_importing_only_defines():
    """No thread, no socket, no process, and the environment as it was."""
    names = modules("leptonai")
    assert run_python(IMPORT_AND_WATCH, *names) == [names[-1], [], True]


PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "changes/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@each_page
def test_every_link_to_a_file_of_the_project_leads_there(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target and "mailto:" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(
    "line",
    [
        line
        for page in PAGES
        for block in re.findall(r"^```\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("leptonai ")
    ],
)
def test_every_command_in_the_documents_is_one_that_the_command_line_takes(
    line, tmp_path, monkeypatch
):
    arguments = shlex.split(line, comments=True)[1:]
    monkeypatch.chdir(tmp_path)
    for table in (argument for argument in arguments if argument.endswith(".csv")):
        (tmp_path / table).touch()
    command, context = root, root.make_context("leptonai", arguments[:])
    while isinstance(command, click.Group):
        _, command, arguments = command.resolve_command(context, arguments)
        context = command.make_context(command.name, arguments[:], parent=context)
