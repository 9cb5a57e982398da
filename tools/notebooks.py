"""Reading, running, cleaning and comparing notebooks: shared by the tools and the tests."""
import ast
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
LARGEST_OUTPUT = 200_000                       # bytes; GitHub folds what is larger
TAGS = {"parameters", "varies", "platform"}    # every tag a cell may carry
NOT_COMPARED = {"varies", "platform"}
SUBSTITUTE = "takes its place"                 # fetch.py's words for a bundled default


class NotebookError(Exception):
    """A notebook breaks a rule or failed; the message names the file and the cell."""


def read(path: Path) -> nbformat.NotebookNode:
    """Return the notebook at path."""
    return nbformat.read(path, as_version=4)


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write notebook to path with LF line ends, whole or not at all."""
    text = nbformat.writes(notebook) + "\n"
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def project_files() -> list[Path]:
    """Return the project's files: what git tracks, or would if it were added."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True,
    )
    if listed.returncode == 0:
        names = listed.stdout.decode("utf-8").split("\0")
        return sorted(ROOT / name for name in names if name and (ROOT / name).is_file())
    passed_over = {".git", "__pycache__", "runs", ".venv", "venv", ".pytest_cache"}
    return sorted(p for p in ROOT.rglob("*")              # an unpacked archive, no git
                  if p.is_file() and not passed_over & set(p.parts) and p.suffix != ".pth")


def copy_tree(target: Path) -> Path:
    """Copy the project's files below target."""
    for path in project_files():
        copied = target / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copied)
    return target


def substitute(notebook: nbformat.NotebookNode, values: dict[str, object]) -> None:
    """Replace literals in the cell tagged `parameters`, in place.

    Each name must be assigned there exactly once, so that a renamed setting cannot
    silently turn a small run into a long one.
    """
    cells = [c for c in notebook.cells if "parameters" in tags_of(c)]
    if len(cells) != 1:
        raise NotebookError(f"{len(cells)} cells are tagged parameters, one is needed")
    source = cells[0].source
    for name, value in values.items():
        found = [
            node for node in ast.parse(source).body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == name
        ]
        if len(found) != 1:
            raise NotebookError(
                f"the cell tagged parameters assigns {name} {len(found)} times; "
                "a small setting must match exactly one assignment")
        lines = source.splitlines()
        start, end = found[0].lineno - 1, found[0].end_lineno
        lines[start:end] = [f"{name} = {value!r}"]
        source = "\n".join(lines)
    cells[0].source = source


def check_parameters(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what is no literal assignment in the cell tagged `parameters`."""
    faults = []
    for cell in notebook.cells:
        if "parameters" not in tags_of(cell):
            continue
        for node in ast.parse(cell.source).body:
            try:
                if not isinstance(node, ast.Assign):
                    raise ValueError
                ast.literal_eval(node.value)
            except ValueError:
                faults.append(f"cell {cell.id}: `{ast.unparse(node)}` is no literal")
    return faults


def tags_of(cell: nbformat.NotebookNode) -> set[str]:
    """Return the tags of a cell."""
    return set(cell.metadata.get("tags", []))


def execute(path: Path, values: dict[str, object] | None = None,
            timeout: int = 3600) -> nbformat.NotebookNode:
    """Run the notebook at path in its folder and return it with fresh outputs.

    values replaces parameters (see substitute). Pictures are held to the rules of
    tools/picture_rules.py while they are drawn.
    """
    notebook = read(path)
    if values:
        substitute(notebook, values)
    rules = nbformat.v4.new_code_cell(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import picture_rules\nsys.path.pop(0)\npicture_rules.install()")
    verdict = nbformat.v4.new_code_cell("picture_rules.report()")
    notebook.cells = [rules, *notebook.cells, verdict]
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}})
    try:
        client.execute()
    except CellExecutionError as error:
        position, cell = next(
            (i, c) for i, c in enumerate(notebook.cells)
            if any(o.output_type == "error" for o in c.get("outputs", [])))
        where = "a rule for pictures" if cell is verdict else f"cell {cell.id}"
        raise NotebookError(
            f"{path.name}, {where} (number {position} of {len(notebook.cells) - 2}): "
            f"{error.ename}: {error.evalue}\n{error.traceback[-3000:]}") from None
    notebook.cells = notebook.cells[1:-1]
    return clean(notebook)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Reduce notebook to what is committed: no counts, times, stderr; in place."""
    notebook.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3", "language": "python",
                       "name": "python3"},
        "language_info": {"name": "python"},
    })
    for cell in notebook.cells:
        tags = sorted(tags_of(cell))
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.outputs = merge_streams([
            o for o in cell.outputs
            if not (o.output_type == "stream" and o.name == "stderr")])
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = None
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
    return notebook


def merge_streams(outputs: list) -> list:
    """Join neighbouring pieces of stdout, whose cut depends on timing."""
    merged: list = []
    for output in outputs:
        if (merged and output.output_type == merged[-1].output_type == "stream"
                and output.name == merged[-1].name):
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def faults_of_outputs(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what must not be committed: machine paths, times, errors, large outputs."""
    private = {str(ROOT), str(Path.home()), tempfile.gettempdir(), sys.prefix}
    private = {p for p in private if len(p) > 2}
    faults = []
    for cell in notebook.cells:
        if unknown := tags_of(cell) - TAGS:
            faults.append(f"cell {cell.id}: unknown tags {sorted(unknown)}")
        if cell.cell_type != "code":
            continue
        if cell.execution_count is not None:
            faults.append(f"cell {cell.id}: execution_count is stored")
        text = json.dumps(cell.outputs)
        if len(text) > LARGEST_OUTPUT:
            faults.append(f"cell {cell.id}: output of {len(text):,} bytes")
        faults += [f"cell {cell.id}: output shows the machine path {p}"
                   for p in private if p in text_of(cell)]
        if re.search(r"\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d", text_of(cell)):
            faults.append(f"cell {cell.id}: output shows a time stamp")
        for output in cell.outputs:
            if output.output_type == "error":
                faults.append(f"cell {cell.id}: output is an error")
            if output.get("name") == "stderr":
                faults.append(f"cell {cell.id}: stderr is stored")
    return faults


def text_of(cell: nbformat.NotebookNode) -> str:
    """Return what a code cell printed or returned, as one text without stderr."""
    parts = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stdout":
            parts.append(output.text)
        elif "data" in output and not any(k.startswith("image/") for k in output.data):
            parts.append(output.data.get("text/plain", ""))
    return "\n".join(part.rstrip("\n") for part in parts)


def images_of(cell: nbformat.NotebookNode) -> int:
    """Return how many pictures a cell shows."""
    return sum(any(k.startswith("image/") for k in o.get("data", {}))
               for o in cell.get("outputs", []))


NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?|\b(?:nan|inf)\b")


def differences(stored: nbformat.NotebookNode, fresh: nbformat.NotebookNode,
                tolerance: float) -> list[str]:
    """Return where fresh outputs leave the stored ones, cell by cell.

    Integers and words must be equal, numbers with a point within tolerance (relative
    above 1); of a picture only that it is there. Cells tagged varies or platform are
    passed over, and so is all that follows the use of a bundled substitute.
    """
    found = []
    for old, new in zip(stored.cells, fresh.cells):
        if SUBSTITUTE in text_of(new) and SUBSTITUTE not in text_of(old):
            break
        if old.cell_type != "code" or tags_of(old) & NOT_COMPARED:
            continue
        if images_of(old) != images_of(new):
            found.append(
                f"cell {old.id}: {images_of(new)} pictures, {images_of(old)} stored")
        reason = text_difference(text_of(old), text_of(new), tolerance)
        if reason:
            found.append(f"cell {old.id}: {reason}")
    return found


def text_difference(old: str, new: str, tolerance: float) -> str:
    """Return why new is not old, or an empty string."""
    old = re.sub(r"\s+", " ", old).strip()     # the width of a column is no content
    new = re.sub(r"\s+", " ", new).strip()
    words = [NUMBER.sub("#", text) for text in (old, new)]
    if re.sub(r"\s", "", words[0]) != re.sub(r"\s", "", words[1]):
        return f"prints {new[:300]!r}, stored is {old[:300]!r}"
    for a, b in zip(NUMBER.findall(old), NUMBER.findall(new)):
        if a == b:
            continue
        if not any(mark in a + b for mark in ".e"):
            return f"the integer {b} was {a}"
        if not abs(float(a) - float(b)) <= tolerance * max(1.0, abs(float(a))):
            return f"{b} was {a} (tolerance {tolerance})"
    return ""


def save_images(notebook: nbformat.NotebookNode, folder: Path, stem: str) -> list[Path]:
    """Write each PNG of notebook to folder, to be looked at; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                path = folder / f"{stem}-{number:03d}-{len(paths):02d}.png"
                path.write_bytes(base64.b64decode(output.data["image/png"]))
                paths.append(path)
    return paths
