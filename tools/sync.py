"""Rewrite every generated copy from its home; --check only compares.

Usage: python tools/sync.py [--check]

Three kinds of copies are kept true:
- a .py file whose header is a manifest: `#   ch03.ipynb: MultiHeadAttention` takes that
  definition verbatim from the notebook (or .py file) and derives the imports it needs;
  what stands below the line `# --- written by hand ---` is never touched;
- a notebook cell whose first line is `# from ch02/.../ch02.ipynb: GPTDatasetV1`;
- a .py file whose first line is `# from tools/fetch.py`: that file, whole.
It also stamps the frame of the notebooks (tools/frame.py).
"""
import argparse
import ast
import builtins
import difflib
import functools
import re
import symtable
import sys
from dataclasses import dataclass, field
from pathlib import Path

import frame
import nbformat
import notebooks

ROOT = notebooks.ROOT
MANIFEST = "# Generated from the notebooks below by `python tools/sync.py`; edit those."
BY_HAND = "# --- written by hand ---"
COPY = re.compile(r"# from (?P<home>\S+\.(?:ipynb|py))(?:: *(?P<names>.*))?$")
REPAIR = "python tools/sync.py"
Entry = tuple[str, list[str]]          # a home and the names taken from it
MODULE_NAMES = {"__file__", "__name__", "__doc__"}


class SyncError(Exception):
    """A manifest or a definition breaks a rule; the message names file and cell."""


@dataclass
class Definition:
    """A function, class or constant as it stands in its home."""

    name: str
    source: str
    home: str            # "ch03.ipynb, cell 1a2b3c4d"
    notebook: "Home"
    free: set[str]


@dataclass
class Home:
    """What one notebook defines and imports."""

    path: Path
    definitions: dict[str, Definition] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)   # name -> import statement
    siblings: set[str] = field(default_factory=set)         # names from files beside it


def relative(path: Path) -> str:
    """Return path as it is written in messages and manifests."""
    return path.relative_to(ROOT).as_posix()


def free_names(source: str) -> set[str]:
    """Return the names that source reads from the module around it."""
    free: set[str] = set()

    def visit(table: symtable.SymbolTable, is_module: bool) -> None:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (is_module or symbol.is_global()):
                free.add(symbol.get_name())
        for child in table.get_children():
            visit(child, False)

    module = symtable.symtable(source, "definition", "exec")
    visit(module, True)
    defined = {s.get_name() for s in module.get_symbols() if s.is_assigned()}
    return free - defined - set(dir(builtins)) - MODULE_NAMES


def name_of(node: ast.stmt) -> str | None:
    """Return the name a top-level statement defines: def, class, CONSTANT = ..."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
        return node.name
    if (isinstance(node, ast.Assign) and len(node.targets) == 1
            and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper()):
        return node.targets[0].id
    return None


def source_of(node: ast.stmt, lines: list[str]) -> str:
    """Return the lines of node with its decorators and the comments right above."""
    decorators = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(d.lineno for d in decorators)]) - 1
    while start > 0 and lines[start - 1].startswith("#"):
        start -= 1
    return "\n".join(lines[start:node.end_lineno])


@functools.cache
def home_of(path: Path) -> Home:
    """Read the definitions and imports of the notebook at path."""
    home = Home(path)
    for cell in code_cells(path):
        where = path.name + (f", cell {cell.id}" if path.suffix == ".ipynb" else "")
        try:
            body = ast.parse(cell.source).body
        except SyntaxError as error:
            raise SyncError(f"{where}: {error}") from None
        copied = COPY.match(cell.source.partition("\n")[0])
        lines = cell.source.splitlines()
        for node in body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                remember_import(node, home)
            name = name_of(node)
            if name is None or copied:
                continue
            source = source_of(node, lines)
            if name in home.definitions:
                first = home.definitions[name].home
                raise SyncError(f"{where}: {name} has a home already ({first})")
            home.definitions[name] = Definition(
                name, source, where, home, free_names(source))
    return home


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    """Return the code cells of a notebook; a .py file is one cell."""
    if path.suffix == ".py":
        return [nbformat.v4.new_code_cell(read_text(path))]
    return [c for c in notebooks.read(path).cells if c.cell_type == "code"]


def remember_import(node: ast.Import | ast.ImportFrom, home: Home) -> None:
    """Note the names that an import statement binds."""
    for alias in node.names:
        module = node.module if isinstance(node, ast.ImportFrom) else alias.name
        top = module.split(".")[0]
        local = alias.asname or alias.name
        as_part = f" as {alias.asname}" if alias.asname else ""
        if isinstance(node, ast.ImportFrom):
            statement = f"from {module} import {alias.name}{as_part}"
        else:
            statement = f"import {alias.name}{as_part}"
            local = alias.asname or top
        if (home.path.parent / f"{top}.py").exists():
            home.siblings.add(local)
        else:
            home.imports[local] = statement


def find_notebook(name: str) -> Path:
    """Return the home that a manifest calls name (a file name or a whole path)."""
    if "/" in name:
        found = [ROOT / name] if (ROOT / name).is_file() else []
    else:
        found = [p for p in ROOT.glob(f"*/*/{name}") if ".ipynb_checkpoints" not in p.parts]
    if len(found) != 1:
        raise SyncError(f"{len(found)} homes are called {name}; "
                        "name one that exists, or write its whole path")
    return found[0]


def definitions_for(entries: list[Entry], where: str) -> list[Definition]:
    """Return the definitions that manifest entries (notebook, names) ask for."""
    wanted: dict[str, Definition] = {}
    for notebook, names in entries:
        home = home_of(find_notebook(notebook))
        for name in names:
            if name in wanted:
                raise SyncError(f"{where}: two homes for {name} "
                                f"({wanted[name].home}; {notebook})")
            if name not in home.definitions:
                raise SyncError(f"{where}: {notebook} does not define {name}")
            wanted[name] = home.definitions[name]
    return list(wanted.values())


def imports_for(wanted: list[Definition], where: str) -> dict[str, str]:
    """Return name -> import statement for all names that the definitions leave free."""
    names = {d.name for d in wanted}
    needed: dict[str, str] = {}
    for definition in wanted:
        for free in sorted(definition.free - names):
            statement = definition.notebook.imports.get(free)
            if statement is None:
                raise SyncError(
                    f"{where}: {definition.name} ({definition.home}) uses {free}, which "
                    "is no builtin, no third-party import and not in this manifest")
            if needed.setdefault(free, statement) != statement:
                raise SyncError(f"{where}: {free} means two things: {needed[free]!r} "
                                f"and {statement!r} ({definition.home})")
    return needed


def import_block(statements: set[str]) -> str:
    """Return import statements in order: standard library, then the others."""
    groups: tuple[list[str], list[str]] = ([], [])
    merged: dict[str, set[str]] = {}
    for statement in statements:
        if statement.startswith("from "):
            _, module, _, names = statement.split(" ", 3)
            merged.setdefault(module, set()).add(names)
    plain = [s for s in statements if s.startswith("import ")]
    for line in sorted(plain):
        groups[not is_standard(line.split()[1])].append(line)
    for module in sorted(merged):
        line = f"from {module} import {', '.join(sorted(merged[module]))}"
        groups[not is_standard(module)].append(line)
    return "\n\n".join("\n".join(group) for group in groups if group)


def is_standard(module: str) -> bool:
    """Tell whether module belongs to Python itself."""
    return module.split(".")[0] in sys.stdlib_module_names


def join(wanted: list[Definition]) -> str:
    """Return the definitions' sources, two lines apart; constants stay together."""
    text = ""
    for before, definition in zip([None, *wanted], wanted):
        close = before and definition.name.isupper() and before.name.isupper()
        text += ("" if before is None else "\n" if close else "\n\n\n") + definition.source
    return text


# --- what is generated ----------------------------------------------------------------

def manifest_entries(lines: list[str], where: str) -> tuple[list[Entry], int]:
    """Return the entries of a header and how many lines it has."""
    text, count = [], 1
    for line in lines[1:]:
        if not line.startswith("#   "):
            break
        count += 1
        if line.startswith("#     ") and text:       # goes on from the line before
            text[-1] += " " + line.strip("# \n")
        else:
            text.append(line.strip("# \n"))
    entries = []
    for line in text:
        notebook, colon, names = line.partition(":")
        if not colon or not notebook.endswith((".ipynb", ".py")):
            raise SyncError(f"{where}: this line of the manifest is not "
                            f"`notebook.ipynb: Name, Name`: {line!r}")
        entries.append((notebook, [n for n in re.split(r"[,\s]+", names) if n]))
    return entries, count


def generated_module(path: Path, text: str) -> tuple[str, list[Definition]]:
    """Return what a file with a manifest should hold, and its definitions."""
    lines = text.splitlines()
    entries, count = manifest_entries(lines, relative(path))
    wanted = definitions_for(entries, relative(path))
    imports = set(imports_for(wanted, relative(path)).values())
    head = "\n".join(lines[:count])
    if docstring := ast.get_docstring(ast.parse(text), clean=False):
        head += f'\n"""{docstring}"""'
    _, mark, by_hand = text.partition(f"\n{BY_HAND}\n")
    parts = [head, import_block(imports) + "\n\n\n" + join(wanted)]
    if mark:
        parts[-1] += f"\n\n\n{BY_HAND}\n" + by_hand.rstrip("\n")
    return "\n\n".join(parts) + "\n", wanted


def generated_cell(source: str, notebook: Path, home: Home) -> str | None:
    """Return what a notebook cell that names a home should hold; None for others."""
    first, *rest = source.splitlines() or [""]
    match = COPY.match(first)
    if not match:
        return None
    header, names = [first], match["names"] or ""
    for line in rest:
        if not line.startswith("#     "):
            break
        header.append(line)
        names += " " + line.strip("# ")
    where = relative(notebook)
    entry = (match["home"], [n for n in re.split(r"[,\s]+", names) if n])
    wanted = definitions_for([entry], where)
    known = set(home.definitions) | copied_names(notebook)
    for definition in wanted:
        for free in definition.free - known - {d.name for d in wanted}:
            theirs, ours = definition.notebook.imports.get(free), home.imports.get(free)
            if ours is None or (theirs and theirs != ours):
                raise SyncError(
                    f"{where}: {definition.name} ({definition.home}) needs "
                    f"`{theirs or free}` in this notebook's imports")
    return "\n".join(header) + "\n" + join(wanted)


@functools.cache
def copied_names(notebook: Path) -> set[str]:
    """Return the names that the copied cells of a notebook bring."""
    names = set()
    for cell in notebooks.read(notebook).cells:
        if cell.cell_type == "code" and (m := COPY.match(cell.source.partition("\n")[0])):
            header = "\n".join(
                line for i, line in enumerate(cell.source.splitlines())
                if i == 0 or line.startswith("#     "))
            names |= set(re.findall(r"\w+", header.partition(": ")[2])) | {m["home"]}
    return names


def generated_copy(path: Path, text: str) -> str | None:
    """Return what a whole copied file should hold, or None if path is no copy."""
    first = text.partition("\n")[0]
    match = COPY.match(first)
    if not match or match["names"]:
        return None
    home = ROOT / match["home"]
    if not home.is_file():
        raise SyncError(f"{relative(path)}: {match['home']} does not exist")
    return first + "\n" + read_text(home)


def read_text(path: Path) -> str:
    """Return the text of path with LF line ends, however it was checked out."""
    return path.read_text(encoding="utf-8").replace("\r\n", "\n")


# --- doing it -------------------------------------------------------------------------

def python_files() -> list[Path]:
    """Return the files that may be generated: those beside the notebooks."""
    return sorted(p for p in ROOT.glob("*/*/*.py") if p.parts[len(ROOT.parts)] != "tests")


def notebook_files() -> list[Path]:
    """Return all notebooks of the course."""
    return sorted(p for p in ROOT.glob("*/*/*.ipynb")
                  if ".ipynb_checkpoints" not in p.parts)


def sync_file(path: Path, check: bool) -> list[str]:
    """Bring one .py file up to date; return what differed."""
    text = read_text(path)
    wanted: list[Definition] = []
    if text.startswith(MANIFEST):
        fresh, wanted = generated_module(path, text)
    else:
        fresh = generated_copy(path, text)
    if fresh is None or fresh == text:
        return []
    if not check:
        path.write_text(fresh, encoding="utf-8", newline="\n")
        return [f"{relative(path)}: rewritten"]
    line = first_difference(text, fresh)
    home = home_at_line(fresh, line, wanted) or text.partition("\n")[0][2:]
    return [f"{relative(path)}:{line}: differs from its home ({home}); "
            f"edit the home, then repair with: {REPAIR}"]


def first_difference(old: str, new: str) -> int:
    """Return the number of the first line in which two texts differ, from 1."""
    pairs = zip(old.splitlines(), new.splitlines())
    for number, (a, b) in enumerate(pairs, 1):
        if a != b:
            return number
    return min(len(old.splitlines()), len(new.splitlines())) + 1


def home_at_line(text: str, line: int, wanted: list[Definition]) -> str:
    """Return the home of the definition that holds line of the generated text."""
    for definition in wanted:
        start = text[:text.find(definition.source)].count("\n") + 1
        if start <= line <= start + definition.source.count("\n"):
            return f"{definition.home}: {definition.name}"
    return ""


def sync_notebook(path: Path, check: bool) -> list[str]:
    """Bring the copied cells and the frame of one notebook up to date."""
    notebook = notebooks.read(path)
    home = home_of(path)
    changed = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        fresh = generated_cell(cell.source, path, home)
        if fresh is not None and fresh != cell.source:
            line = first_difference(cell.source, fresh)
            changed.append(f"{relative(path)}, cell {cell.id}, line {line}: differs from "
                           f"its home ({cell.source.partition(chr(10))[0][2:]})")
            cell.source = fresh
    if problem := frame.stamp(notebook, path):
        changed.append(f"{relative(path)}: {problem}")
    if not changed:
        return []
    if check:
        return [f"{line}; edit the home, then repair with: {REPAIR}" for line in changed]
    notebooks.write(notebook, path)
    return [f"{relative(path)}: rewritten"]


def sync(check: bool = False) -> list[str]:
    """Bring every generated copy up to date (or compare); return what differed."""
    home_of.cache_clear()
    copied_names.cache_clear()
    changed = []
    for path in notebook_files():
        changed += sync_notebook(path, check)
    for path in python_files():
        changed += sync_file(path, check)
    return changed


def show_diff(path: Path) -> str:
    """Return a unified diff between a generated file and what it should be."""
    text = read_text(path)
    fresh = generated_module(path, text)[0] if text.startswith(MANIFEST) \
        else generated_copy(path, text) or text
    return "".join(difflib.unified_diff(
        text.splitlines(True), fresh.splitlines(True), "now", "should be"))


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, change nothing")
    options = parser.parse_args()
    try:
        changed = sync(options.check)
    except SyncError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(changed) or "every copy equals its home")
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
