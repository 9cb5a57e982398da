"""tools/run.py, bench.py and make_gpt2_merges.py as a contributor uses them."""
import subprocess
import sys

import bench
import nbformat
import notebooks
import numpy as np
import pytest
import run
from helpers import ROOT, definitions, load_file
from nbformat.v4 import new_code_cell, new_notebook


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one notebook; the function returned writes it and runs run.py."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    folder = tmp_path / "ch01"
    folder.mkdir()
    path = folder / "ch01.ipynb"

    def call(*words, source=None, tags=()):
        if source is not None:
            cell = new_code_cell(source, id="c", execution_count=3)
            cell.metadata = nbformat.from_dict({"tags": list(tags)} if tags else {})
            notebooks.write(new_notebook(cells=[cell]), path)
        monkeypatch.setattr(sys, "argv", ["run.py", str(path), *map(str, words)])
        return run.main(), notebooks.read(path).cells[0]

    return call


def test_run_stores_clean_outputs_and_leaves_no_files(project, tmp_path):
    code, cell = project(source="import sys\nprint(1.5)\nprint('bar', file=sys.stderr)\n"
                                "open('left.txt', 'wb').close()")
    assert code == 0 and cell.execution_count is None
    assert [o.text for o in cell.outputs] == ["1.5\n"]
    assert [p.name for p in (tmp_path / "ch01").iterdir()] == ["ch01.ipynb"]


@pytest.mark.parametrize("source, tags, words", [
    ("1 / 0", (), "ZeroDivisionError"),
    ("import os\nprint(os.path.abspath('.'))", (), "machine path"),
    ("print(1)", ("slow",), "unknown tags"),
])
def test_run_stores_nothing_of_a_notebook_with_a_fault(
        project, capsys, source, tags, words):
    code, cell = project(source=source, tags=tags)
    assert code == 1 and cell.outputs == [] and cell.execution_count == 3
    assert words in capsys.readouterr().err


def test_run_check_finds_a_drifted_output(project, capsys):
    assert project(source="print(1)")[0] == 0
    assert project("--check")[0] == 0
    cell = notebooks.read(notebooks.ROOT / "ch01" / "ch01.ipynb")
    cell.cells[0].source = "print(2)"
    notebooks.write(cell, notebooks.ROOT / "ch01" / "ch01.ipynb")
    assert project("--check")[0] == 1
    assert "the integer 2 was 1" in capsys.readouterr().err


def test_run_writes_the_pictures_out(project, tmp_path):
    source = ("import matplotlib.pyplot as plt\n"
              "plt.subplots(figsize=(5, 3), facecolor='white')[1].plot([1, 2]);")
    assert project("--images", tmp_path / "images", source=source)[0] == 0
    assert len(list((tmp_path / "images").glob("*.png"))) == 1


def test_run_names_a_notebook_that_is_not_there():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "run.py"), "none.ipynb"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "no such notebook: none.ipynb\n"


def test_bench_measures_all_variants_in_turn(monkeypatch, capsys):
    script = load_file("ch05/01_main-chapter-code/gpt_train.py")
    script.GPT_CONFIG_124M.update(emb_dim=24, n_heads=2, n_layers=1, context_length=16)
    monkeypatch.setattr(bench, "load", lambda name: script)
    monkeypatch.setattr(sys, "argv", ["bench.py", "--rounds", "2", "--only", "chapter",
                                      "float32", "auto", "--threads", "1"])
    assert bench.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["chapter", "float32", "auto"]
    assert lines[-1].startswith("auto makes ") and lines[-1].endswith("of chapter")
    monkeypatch.setattr(sys, "argv", ["bench.py", "--rounds", "0"])
    assert bench.main() == 2


def test_bench_compares_the_pretraining_script_with_the_bare_loop():
    config = {"vocab_size": 50257, "context_length": 8, "emb_dim": 8, "n_heads": 2,
              "n_layers": 1, "drop_rate": 0.0, "qkv_bias": True}
    code = f"import bench; bench.pretraining(2, 'muon', {config}, 30_000)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tools",
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["script", "bare", "data", "script"]


def test_the_bundled_merges_are_what_the_tool_makes(tmp_path):
    ch02 = definitions("ch02.ipynb")
    stored = np.load(ROOT / "ch02/01_main-chapter-code/gpt2_merges.npz")["merges"]
    vocab_bpe, encoder_json = ch02.rebuild_gpt2_files(stored)
    (tmp_path / "vocab.bpe").write_bytes(vocab_bpe)
    (tmp_path / "encoder.json").write_bytes(encoder_json)
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_gpt2_merges.py"), "vocab.bpe",
         "encoder.json", "out.npz"], cwd=tmp_path, check=True, capture_output=True)
    made = np.load(tmp_path / "out.npz")["merges"]
    assert made.dtype == np.uint16 and made.shape == (50000, 2)
    assert np.array_equal(made, stored)
