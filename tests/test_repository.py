"""What a stranger meets first: README's commands, links, notebooks as committed."""
import ast
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import unquote

import notebooks
import pytest
import sync
from helpers import ROOT
from notebook_settings import SMALL

NOTEBOOKS = sync.notebook_files()
NAMES = [sync.relative(path) for path in NOTEBOOKS]


def tracked(*patterns):
    """Return the project's files that match patterns, relative to its root."""
    return [p for p in notebooks.project_files()
            if any(fnmatch(sync.relative(p), pattern) for pattern in patterns)]


def test_the_first_two_bash_blocks_are_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert blocks[:2] == [
        "python -m pip install -r requirements.txt && "
        "python ch05/01_main-chapter-code/gpt_train.py\n",
        "python -m pip install -r requirements.txt -r tests/requirements.txt && "
        "python -m pytest\n"]


def slug(heading):
    """Return the anchor that GitHub gives a heading."""
    heading = re.sub(r"[`*$]", "", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")


def texts():
    """Yield (file, markdown) of every page and notebook."""
    for path in tracked("*.md"):
        yield path, path.read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        cells = notebooks.read(path).cells
        yield path, "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def test_every_link_inside_the_project_leads_somewhere():
    broken = []
    for path, text in texts():
        text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = unquote(target).partition("#")
            there = path if not name else (path.parent / name)
            if not there.exists():
                broken.append(f"{sync.relative(path)}: {target}")
            elif anchor and there.suffix in (".md", ".ipynb"):
                content = dict(texts())[there]
                headings = re.findall(r"^#+ (.*)$", content, flags=re.MULTILINE)
                if anchor.lower() not in {slug(h) for h in headings}:
                    broken.append(f"{sync.relative(path)}: {target} (no such heading)")
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_clean_and_whole(name):
    notebook = notebooks.read(ROOT / name)
    faults = notebooks.faults_of_outputs(notebook) + notebooks.check_parameters(notebook)
    assert faults == []
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert notebook.cells[0].source.startswith("# ")
    assert notebook.cells[1].id == "bootstrap"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in code), "no outputs: run it with tools/run.py"
    assert all(cell.source.strip() for cell in notebook.cells), "an empty cell"


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_follows_a_sentence_that_says_what_it_shows(name):
    before = None
    for cell in notebooks.read(ROOT / name).cells:
        if cell.cell_type == "code" and re.fullmatch(
                r"pictures\.\w+\(.*\)", cell.source.strip(), flags=re.DOTALL):
            assert before is not None and before.cell_type == "markdown", cell.source
        before = cell


@pytest.mark.parametrize("name", NAMES)
def test_no_shell_and_no_magic_stands_in_a_lesson(name):
    for cell in notebooks.read(ROOT / name).cells:
        if cell.cell_type == "code":
            ast.parse(cell.source)          # `!pip` and `%time` are no Python


def test_small_settings_belong_to_notebooks_that_exist():
    assert set(SMALL) <= set(NAMES)
    for name, values in SMALL.items():
        notebooks.substitute(notebooks.read(ROOT / name), values)


def test_no_machine_path_and_no_package_host_is_committed():
    words = ["/" + "root/", "/" + "work/", "pypi" + ".org", "python" + "hosted"]
    found = [
        f"{sync.relative(path)}: {word}"
        for path in tracked("*") if path.suffix not in (".npz", ".png", ".safetensors")
        for word in words
        if word in path.read_text(encoding="utf-8", errors="ignore")]
    assert found == []


def test_text_files_are_opened_with_an_encoding():
    missing = []
    for path in tracked("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            keywords = {k.arg for k in node.keywords}
            constants = [n.value for a in node.args[1:] for n in ast.walk(a)
                         if isinstance(n, ast.Constant)]
            binary = any("b" in str(mode) for mode in constants)
            is_open = name == "open" and isinstance(node.func, ast.Name) and not binary
            is_text = (name == "read_text" and not node.args
                       or name == "write_text" and len(node.args) < 2)
            if (is_open or is_text) and "encoding" not in keywords:
                missing.append(f"{sync.relative(path)}:{node.lineno}")
    assert missing == [], missing


def test_the_lint_is_clean():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", str(ROOT)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_workflow_follows_its_schema():
    workflows = tracked(".github/workflows/*.yml")
    assert workflows
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema",
         "vendor.github-workflows", *map(str, workflows)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_torch_is_pinned_wherever_it_is_named():
    for path in tracked("*requirements*.txt", ".github/*.yml"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"\btorch\b", line.partition("#")[0]):
                assert "torch==2.13.0" in line, f"{path.name}: {line}"


def test_every_requirement_is_bounded_and_says_why():
    for name in ("requirements.txt", "tests/requirements.txt"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        for before, line in zip([""] + lines, lines):
            if not line or line.startswith(("#", "-r")):
                continue
            assert "==" in line or ("<" in line and ">=" in line) or "tomli" in line, line
            assert "#" in line or before.startswith("#"), f"{line}: why?"


def test_nothing_large_is_in_the_project_but_the_model():
    model = "ch05/03_bonus_pretraining_on_gutenberg/gpt2-mini/model.safetensors"
    large = {sync.relative(p): p.stat().st_size for p in tracked("*")
             if p.stat().st_size > 2_000_000}
    assert large.pop(model) <= 33_554_432
    assert large == {}


def test_the_story_has_what_the_lessons_need():
    module = sync.home_of(sync.find_notebook("ch02.ipynb"))
    assert "load_gpt2_bpe" in module.definitions
    text = Path(ROOT / "ch02/01_main-chapter-code/the-sign-painter.txt").read_text("utf-8")
    from helpers import definitions

    ch02 = definitions("ch02.ipynb")
    pieces = re.split(r'([,.:;?_!"()\']|--|\s)', text)
    needed = '''" ' , . It s the last he painted you know Mrs Gisburn said with
        pardonable pride'''
    assert set(needed.split()) <= set(pieces) and "Hello" not in text
    bpe = ch02.load_gpt2_bpe()
    split = int(0.9 * len(text))
    assert 4900 <= len(bpe.encode(text)) <= 5300 and len(bpe.encode(text[split:])) >= 300
    train, val = (ch02.create_dataloader_v1(part, 2, 256, 256, False, last)
                  for part, last in ((text[:split], True), (text[split:], False)))
    assert (len(train), len(val)) == (9, 1)
