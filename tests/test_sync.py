"""The copies: what sync.py must write, and what it must refuse."""
import subprocess
import sys

import frame
import nbformat
import notebooks
import pytest
import sync

HEADER = sync.MANIFEST + "\n"
IMPORTS = "import math\nimport torch\nimport torch.nn as nn\nfrom pathlib import Path"
ATTENTION = '''\
# why this class exists
class Attention(nn.Module):
    """Doc."""

    def forward(self, x):
        return helper(x) * LIMIT'''
HELPER = "LIMIT = 3        # a constant\n\ndef helper(x):\n    return math.sqrt(x)"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one notebook, ch01/01_code/ch01.ipynb, that sync works on."""
    folder = tmp_path / "ch01" / "01_code"
    folder.mkdir(parents=True)
    for module in (sync, notebooks):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    course = {"repository": "https://github.com/a/b", "branch": "main", "notebooks": []}
    monkeypatch.setattr(frame, "course", lambda: course)

    def write(*cells, name="ch01.ipynb"):
        notebook = nbformat.v4.new_notebook(cells=[
            nbformat.v4.new_code_cell(source, id=f"cell{i}")
            for i, source in enumerate(cells)])
        notebooks.write(notebook, folder / name)
        return folder

    return write


def test_every_copy_in_the_project_equals_its_home():
    assert sync.sync(check=True) == []


def test_a_generated_file_has_imports_definitions_comments_and_its_hand_written_part(
        project):
    folder = project(IMPORTS, HELPER, ATTENTION)
    path = folder / "gpt.py"
    path.write_text(HEADER + "#   ch01.ipynb: LIMIT, helper,\n#     Attention\n"
                    f"{sync.BY_HAND}\nprint('mine')\n", encoding="utf-8")
    sync.sync()
    text = path.read_text(encoding="utf-8")
    assert "import math\n\nimport torch.nn as nn\n" in text
    assert "pathlib" not in text and "import torch\n" not in text    # not needed
    assert "LIMIT = 3        # a constant" in text
    assert "# why this class exists\nclass Attention(nn.Module):" in text
    assert text.endswith(f"{sync.BY_HAND}\nprint('mine')\n")
    compile(text, "gpt.py", "exec")
    assert sync.sync(check=True) == []


def test_a_changed_copy_is_reported_with_line_home_and_repair(project):
    folder = project(IMPORTS, HELPER, ATTENTION)
    path = folder / "gpt.py"
    path.write_text(HEADER + "#   ch01.ipynb: LIMIT, helper, Attention\n",
                    encoding="utf-8")
    sync.sync()
    good = path.read_text(encoding="utf-8")
    path.write_text(good.replace("math.sqrt(x)", "math.sqrt(x) + 1"), encoding="utf-8")
    [line] = sync.sync(check=True)
    number = good.splitlines().index("    return math.sqrt(x)") + 1
    assert line.startswith(f"ch01/01_code/gpt.py:{number}: ")
    assert "ch01.ipynb, cell cell1: helper" in line
    assert "python tools/sync.py" in line
    assert path.read_text(encoding="utf-8") != good           # --check changes nothing
    sync.sync()
    assert path.read_text(encoding="utf-8") == good


def test_a_checkout_with_windows_line_ends_is_no_difference(project):
    folder = project(IMPORTS, HELPER)
    path = folder / "gpt.py"
    path.write_text(HEADER + "#   ch01.ipynb: LIMIT, helper\n", encoding="utf-8")
    sync.sync()
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert sync.sync(check=True) == []


@pytest.mark.parametrize("manifest, cells, words", [
    ("ch01.ipynb: Attention", [IMPORTS, HELPER, ATTENTION],
     ["Attention", "cell2", "uses LIMIT", "not in this manifest"]),
    ("ch01.ipynb: nothing", [IMPORTS, HELPER], ["does not define nothing"]),
    ("ch09.ipynb: helper", [IMPORTS, HELPER], ["0 homes are called ch09.ipynb"]),
    ("ch01.ipynb: helper\n#   ch01.ipynb: helper", [IMPORTS, HELPER],
     ["two homes for helper"]),
    ("ch01.ipynb: LIMIT", [IMPORTS, HELPER, HELPER], ["LIMIT has a home already"]),
    ("ch01.ipynb helper", [IMPORTS, HELPER], ["is not `notebook.ipynb: Name, Name`"]),
    ("ch01.ipynb: use", [IMPORTS, "lower = 2\ndef use():\n    return lower"],
     ["use", "lower"]),
])
def test_a_manifest_that_cannot_be_sound_is_refused(project, manifest, cells, words):
    folder = project(*cells)
    (folder / "gpt.py").write_text(HEADER + f"#   {manifest}\n", encoding="utf-8")
    with pytest.raises(sync.SyncError) as error:
        sync.sync()
    for word in words:
        assert word in str(error.value)


def test_one_name_with_two_meanings_is_refused(project):
    folder = project("import json", "def first():\n    return json")
    project("import simplejson as json", "def second():\n    return json",
            name="ch02.ipynb")
    (folder / "gpt.py").write_text(
        HEADER + "#   ch01.ipynb: first\n#   ch02.ipynb: second\n", encoding="utf-8")
    with pytest.raises(sync.SyncError, match="json means two things"):
        sync.sync()


def test_a_definition_from_a_sibling_module_must_be_in_the_manifest(project):
    folder = project("from previous_chapters import base", "def top():\n    return base")
    (folder / "previous_chapters.py").write_text("base = 1\n", encoding="utf-8")
    (folder / "gpt.py").write_text(HEADER + "#   ch01.ipynb: top\n", encoding="utf-8")
    with pytest.raises(sync.SyncError, match="uses base"):
        sync.sync()


def test_a_notebook_cell_that_names_its_home_is_filled(project):
    project(IMPORTS, HELPER)
    home = "# from ch01/01_code/ch01.ipynb: LIMIT, helper"
    folder = project("import math", home, "helper(4)", name="short.ipynb")
    assert len(sync.sync(check=True)) == 1
    sync.sync()
    cell = notebooks.read(folder / "short.ipynb").cells[1]
    assert cell.source == home + "\n" + "LIMIT = 3        # a constant\n\n\n" + (
        "def helper(x):\n    return math.sqrt(x)")
    assert sync.sync(check=True) == []


def test_a_notebook_cell_needs_its_imports_in_the_notebook(project):
    project(IMPORTS, HELPER)
    project("# from ch01/01_code/ch01.ipynb: LIMIT, helper", name="short.ipynb")
    with pytest.raises(sync.SyncError, match="needs `import math`"):
        sync.sync()


def test_a_whole_file_is_copied_below_its_first_line(project, tmp_path):
    folder = project(IMPORTS)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "fetch.py").write_text("x = 1\n", encoding="utf-8")
    (folder / "fetch.py").write_text("# from tools/fetch.py\nx = 2\n", encoding="utf-8")
    [line] = sync.sync(check=True)
    assert line.startswith("ch01/01_code/fetch.py:2:") and "tools/fetch.py" in line
    sync.sync()
    assert (folder / "fetch.py").read_text(encoding="utf-8") == (
        "# from tools/fetch.py\nx = 1\n")


def test_a_python_file_can_be_a_home(project, tmp_path):
    folder = project(IMPORTS)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "shared.py").write_text(
        "import sys\n\n\ndef leave():\n    sys.exit(2)\n", encoding="utf-8")
    (folder / "gpt.py").write_text(HEADER + "#   tools/shared.py: leave\n",
                                   encoding="utf-8")
    sync.sync()
    text = (folder / "gpt.py").read_text(encoding="utf-8")
    assert "import sys\n\n\ndef leave():" in text


def test_the_frame_is_stamped_and_checked(project, monkeypatch):
    course = {
        "repository": "https://github.com/some/where", "branch": "main", "notebooks": [
            {"path": "ch01/01_code/ch01.ipynb", "title": "One", "measured": "3 s"},
            {"path": "ch01/01_code/ch02.ipynb", "title": "Two", "measured": "4 s"}]}
    monkeypatch.setattr(frame, "course", lambda: course)
    folder = project()
    for name in ("ch01.ipynb", "ch02.ipynb"):
        notebooks.write(nbformat.v4.new_notebook(cells=[
            nbformat.v4.new_markdown_cell(f"# T\n\n{frame.BEGIN}\n{frame.END}", id="a"),
            nbformat.v4.new_code_cell("import math", id="b")]), folder / name)
    assert len(sync.sync(check=True)) == 2
    sync.sync()
    notebook = notebooks.read(folder / "ch01.ipynb")
    assert "github/some/where/blob/main/ch01/01_code/ch01.ipynb" in notebook.cells[0].source
    assert "Next: [Two](ch02.ipynb)" in notebook.cells[0].source
    assert "3 s" in notebook.cells[0].source
    assert notebook.cells[1].id == "bootstrap"
    assert sync.sync(check=True) == []
    assert "optuna" not in notebook.cells[1].source
    (folder / "requirements-extra.txt").write_text("# why\noptuna>=4  # search\n",
                                                   encoding="utf-8")
    assert len(sync.sync(check=True)) == 2        # a hosted notebook installs it too
    sync.sync()
    assert "'optuna']" in notebooks.read(folder / "ch01.ipynb").cells[1].source
    course["repository"] = "https://github.com/else/where"
    assert len(sync.sync(check=True)) == 2


def test_the_bootstrap_brings_the_folder_in_a_hosted_notebook_only(tmp_path):
    upstream = tmp_path / "upstream"
    (upstream / "ch02").mkdir(parents=True)
    (upstream / "ch02" / "here.txt").write_text("x", encoding="utf-8")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(upstream)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    code = frame.BOOTSTRAP.format(
        repository=upstream.as_posix(), folder="ch02", packages=["json"])
    code += "\nprint(sorted(os.listdir()))\n"
    hosted = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('c')\n"
    reader = tmp_path / "reader"
    reader.mkdir()

    def run(source):
        return subprocess.run([sys.executable, "-c", source], cwd=reader, check=True,
                              capture_output=True, text=True).stdout.strip()

    assert run(code) == "[]"                           # at home nothing happens
    assert run(hosted + code) == "['here.txt']"
    assert run(hosted + code) == "['here.txt']"        # run twice, cloned once
    assert "torch" not in frame.PACKAGES
