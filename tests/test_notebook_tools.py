"""Running, comparing and cleaning notebooks: each rule, and that breaking it shows."""
import nbformat
import notebooks
import picture_rules
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

pytest_plugins = ["pytester"]


def printing(text, tags=(), **metadata):
    """Return a notebook of one cell that printed text."""
    cell = new_code_cell("x", id="a", outputs=[
        new_output("stream", name="stdout", text=text)])
    cell.metadata = nbformat.from_dict({"tags": list(tags)} if tags else {})
    return new_notebook(cells=[cell])


def renamed(cell, name):
    """Return cell with the id name."""
    cell.id = name
    return cell


@pytest.mark.parametrize("old, new, equal", [
    ("loss 0.1234", "loss 0.1235", True),
    ("loss 0.1234", "loss 0.1239", False),         # beyond the tolerance
    ("tensor([15496,    11])", "tensor([15496, 11])", True),
    ("5145", "5146", False),                       # integers are equal or wrong
    ("48725.82", "48725.87", True),                # relative above one
    ("a 1.0", "b 1.0", False),
    ("[0.1000, -0.0000]", "[0.1000, 0.0000]", True),
    ("loss nan", "loss 1.5", False),
    ("loss 1.5", "loss nan", False),
    ("1.0 2.0", "1.0", False),
])
def test_outputs_are_compared_by_kind_of_number(old, new, equal):
    found = notebooks.differences(printing(old), printing(new), 2e-4)
    assert (found == []) == equal


@pytest.mark.parametrize("tag, compared", [
    ("varies", False), ("platform", False), ("parameters", True)])
def test_two_tags_and_no_more_free_a_cell_from_comparison(tag, compared):
    found = notebooks.differences(printing("1", [tag]), printing("2", [tag]), 0)
    assert bool(found) == compared


def test_a_lost_picture_is_a_difference():
    stored = printing("")
    stored.cells[0].outputs = [new_output("display_data", {"image/png": ""})]
    assert notebooks.differences(stored, printing(""), 0) == [
        "cell a: 0 pictures, 1 stored"]


def test_nothing_is_compared_once_a_bundled_substitute_is_used():
    stored, fresh = (new_notebook(cells=[
        renamed(printing(text).cells[0], f"a{i}") for i, text in enumerate(texts)])
        for texts in (("The text: found", "20479"),
                      ("The text takes its place", "20008")))
    assert notebooks.differences(stored, fresh, 0) == []
    fresh.cells[0].outputs[0].text = "The text: found"
    assert len(notebooks.differences(stored, fresh, 0)) == 1


def with_parameters(source):
    """Return a notebook whose one cell holds parameters."""
    cell = new_code_cell(source, id="p")
    cell.metadata = nbformat.from_dict({"tags": ["parameters"]})
    return new_notebook(cells=[new_markdown_cell("# T"), cell])


def test_a_small_setting_replaces_the_literal():
    notebook = with_parameters("epochs = 10   # long\nCONFIG = {\n    'a': 1,\n}\nz = 3")
    notebooks.substitute(notebook, {"CONFIG": {"a": 2}, "epochs": 1})
    assert notebook.cells[1].source == "epochs = 1\nCONFIG = {'a': 2}\nz = 3"


@pytest.mark.parametrize("source, name", [
    ("num_epochs = 10", "epochs"), ("epochs = 1\nepochs = 2", "epochs")])
def test_a_renamed_or_doubled_setting_does_not_run_long_unnoticed(source, name):
    with pytest.raises(notebooks.NotebookError, match=name):
        notebooks.substitute(with_parameters(source), {name: 1})


def test_a_derived_parameter_is_found():
    assert notebooks.check_parameters(with_parameters("a = 2\nb = [1, {'c': -1.5}]")) == []
    assert "cell p" in notebooks.check_parameters(with_parameters("a = 2\nb = 2 * a"))[0]


def test_cleaning_drops_what_differs_from_run_to_run():
    notebook = new_notebook(cells=[new_code_cell("x", execution_count=7, outputs=[
        new_output("stream", name="stdout", text="a\n"),
        new_output("stream", name="stderr", text="progress bar"),
        new_output("stream", name="stdout", text="b\n"),
        new_output("execute_result", {"text/plain": "1"}, execution_count=7)])])
    notebook.cells[0].metadata = nbformat.from_dict({"execution": {"time": 1}})
    cell = notebooks.clean(notebook).cells[0]
    assert cell.execution_count is None and cell.metadata == {}
    assert [o.output_type for o in cell.outputs] == ["stream", "execute_result"]
    assert cell.outputs[0].text == "a\nb\n" and cell.outputs[1].execution_count is None


@pytest.mark.parametrize("text, word", [
    (str(notebooks.ROOT / "ch02"), "machine path"),
    ("2026-11-20 16:12:01 done", "time stamp"),
    ("x" * 200_001, "200,0"),
])
def test_what_must_not_be_committed_is_found(text, word):
    [fault] = notebooks.faults_of_outputs(printing(text))
    assert word in fault
    assert notebooks.faults_of_outputs(printing("fine")) == []


def test_an_unknown_tag_and_a_stored_error_are_found():
    notebook = printing("x", ["slow"])
    notebook.cells[0].outputs.append(
        new_output("error", ename="E", evalue="", traceback=[]))
    assert len(notebooks.faults_of_outputs(notebook)) == 2


@pytest.fixture
def figure():
    """A figure of one axes, 5 x 3 inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), facecolor="white")
    FigureCanvasAgg(figure)
    figure.add_axes((0, 0, 1, 1)).axis("off")
    return figure


def test_pictures_with_small_or_overlapping_letters_are_found(figure):
    [ax] = figure.axes
    ax.text(0.1, 0.5, "plain")
    ax.text(0.5, 0.5, "apart")
    assert picture_rules.problems(figure) == []
    ax.text(0.5, 0.51, "over it")
    assert "overlap" in picture_rules.problems(figure)[0]
    ax.text(0.1, 0.1, "tiny", fontsize=8)
    assert any("8 points" in p for p in picture_rules.problems(figure))


def test_a_transparent_or_too_wide_picture_is_found(figure):
    figure.set_facecolor((1, 1, 1, 0))
    assert "opaque" in picture_rules.problems(figure)[0]
    figure.set_facecolor("white")
    figure.set_size_inches(12, 3)
    assert "wider" in picture_rules.problems(figure)[0]


def run_plugin(pytester, sources, stored=None, settings="", options=()):
    """Run pytest on a project of one notebook and return its result."""
    folder = pytester.path / "ch01"
    folder.mkdir(exist_ok=True)
    cells = [new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources)]
    for cell in cells:
        if cell.source.startswith("epochs"):
            cell.metadata = nbformat.from_dict({"tags": ["parameters"]})
    if stored:
        cells[-1].outputs = [new_output("stream", name="stdout", text=stored)]
    notebooks.write(new_notebook(cells=cells), folder / "ch01.ipynb")
    tools, tests = str(notebooks.ROOT / "tools"), str(notebooks.ROOT / "tests")
    pytester.makeconftest(f'''
import pathlib, shutil, sys
sys.path[:0] = [{tools!r}, {tests!r}]
import notebooks, notebook_settings
HERE = pathlib.Path(__file__).parent
notebook_settings.SMALL.clear()
notebook_settings.SMALL.update({{{settings}}})
notebooks.ROOT = HERE

def copy_tree(target):
    shutil.copytree(HERE / "ch01", target / "ch01")
    return target

notebooks.copy_tree = copy_tree
pytest_plugins = ["notebook_plugin"]
''')
    pytester.makeini("[pytest]\nmarkers =\n    soak: long\n")
    return pytester.runpytest_subprocess("ch01", *(options or ("-p", "no:xdist")),
                                         timeout=100)


def test_the_plugin_passes_a_true_notebook(pytester):
    result = run_plugin(pytester, ["print(1.5)"], "1.5001\n")
    result.assert_outcomes(passed=1)


def test_the_plugin_fails_a_notebook_that_prints_something_else(pytester):
    result = run_plugin(pytester, ["print(1.5)"], "1.6\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*cell c0: 1.5 was 1.6*"])


def test_the_plugin_names_the_cell_that_breaks(pytester):
    result = run_plugin(pytester, ["x = 1", "1 / 0"])
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ch01.ipynb, cell c1 *ZeroDivisionError*"])


def test_the_plugin_fails_a_picture_with_tiny_letters(pytester):
    result = run_plugin(pytester, [
        "%matplotlib inline\nimport matplotlib.pyplot as plt\n"
        "plt.subplots(facecolor='white')[1].text(0.5, 0.5, 'tiny', fontsize=6);"])
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*'tiny' is set in 6 points*"])


def test_the_plugin_runs_small_and_books_settings(pytester):
    settings = "'ch01/ch01.ipynb': {'epochs': 1}"
    sources = ["epochs = 10", "print(epochs)"]
    result = run_plugin(pytester, sources, "10\n", settings,
                        ["-p", "no:xdist", "-m", "not soak"])
    result.assert_outcomes(passed=1, deselected=1)


def test_the_plugin_runs_a_notebook_on_the_bundled_story_too(pytester, monkeypatch):
    monkeypatch.setenv("LLM_DATA_MIRROR", "somewhere")
    source = ("import os\nname = 'the-verdict.txt'\n"
              "assert 'LLM_DATA_MIRROR' in os.environ, 'no mirror'")
    result = run_plugin(pytester, [source])
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: no mirror*"])


def test_notebooks_of_a_folder_share_one_worker_and_one_copy(pytester):
    """A solution finds the model that its chapter saved (pytest 9.2 broke the groups)."""
    folder = pytester.mkdir("ch01")
    for number in range(1, 6):
        source = (f"import os, time\nassert os.path.exists('{number}')\n"
                  f"time.sleep(0.3)\nopen('{number + 1}', 'wb').close()")
        notebooks.write(new_notebook(cells=[new_code_cell(source, id="a")]),
                        folder / f"later{number}.ipynb")
    result = run_plugin(pytester, ["open('1', 'wb').close()"], options=[
        "-n", "2", "--dist", "loadgroup"])
    result.assert_outcomes(passed=6)
