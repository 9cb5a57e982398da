"""The frame of every notebook: Colab link, neighbours, measured time, bootstrap cell.

pyproject.toml, [tool.course], holds the repository's address and the notebooks in
reading order with the time measured for each; `stamp` writes what follows from it.
"""
import functools
import os.path
import re
from pathlib import Path

import nbformat
import notebooks

try:
    import tomllib
except ImportError:                   # Python 3.10
    import tomli as tomllib

BEGIN, END = "<!-- frame -->", "<!-- /frame -->"
BOOTSTRAP = '''\
# Hosted notebook (Colab, Kaggle): bring the course's files and what is missing.
# Anywhere else this cell does nothing.
import importlib.util
import os
import subprocess
import sys

REPOSITORY = {repository!r}
FOLDER = {folder!r}
PACKAGES = {packages!r}
if "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
    if not os.path.exists("course"):
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPOSITORY, "course"],
                       check=True)
    os.chdir(os.path.join("course", FOLDER))
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:      # never torch: the host has a build that fits its hardware
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing],
                       check=True)'''
PACKAGES = ["tiktoken", "safetensors", "tqdm", "requests"]


@functools.cache
def course() -> dict:
    """Return [tool.course] of pyproject.toml."""
    text = (notebooks.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["tool"]["course"]


def stamp(notebook: nbformat.NotebookNode, path: Path) -> str:
    """Write frame and bootstrap into notebook, in place; say what changed, or ''."""
    name = path.relative_to(notebooks.ROOT).as_posix()
    entries = course()["notebooks"]
    position = next((i for i, e in enumerate(entries) if e["path"] == name), None)
    if position is None:
        return "not listed in pyproject.toml, [tool.course]" if BEGIN in str(
            notebook.cells[0].source) else ""
    changed = []
    first = notebook.cells[0]
    before, begin, rest = first.source.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return f"its first cell lacks the lines {BEGIN} and {END}"
    fresh = f"{before}{BEGIN}\n{frame_text(entries, position)}\n{END}{after}"
    if fresh != first.source:
        first.source = fresh
        changed.append("frame differs")
    code = BOOTSTRAP.format(repository=course()["repository"],
                            packages=PACKAGES + extra_packages(path.parent),
                            folder=Path(name).parent.as_posix())
    second = notebook.cells[1]
    if not second.source.startswith(BOOTSTRAP[:17]):
        second = nbformat.v4.new_code_cell(id="bootstrap")
        notebook.cells.insert(1, second)
    if second.source != code:
        second.source = code
        changed.append("bootstrap cell differs")
    return ", ".join(changed)


def extra_packages(folder: Path) -> list[str]:
    """Return the names in folder's requirements-extra.txt, if it has one."""
    file = folder / "requirements-extra.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [re.match(r"[\w-]+", line)[0] for line in lines
            if line.strip() and not line.startswith("#")]


def frame_text(entries: list[dict], position: int) -> str:
    """Return the lines between the marks for the notebook at position."""
    entry = entries[position]
    address = course()["repository"].removeprefix("https://github.com/")
    colab = (f"https://colab.research.google.com/github/{address}/blob/"
             f"{course()['branch']}/{entry['path']}")
    folder = os.path.dirname(entry["path"])
    links = []
    for word, other in (("Previous", position - 1), ("Next", position + 1)):
        if 0 <= other < len(entries):
            target = os.path.relpath(entries[other]["path"], folder).replace("\\", "/")
            links.append(f"{word}: [{entries[other]['title']}]({target})")
    return (f"**[Open in Colab]({colab})** | {' | '.join(links)}\n\n"
            f"*Measured: {entry['measured']} on two CPU cores.*")
