"""Pytest plugin: every notebook is a test that runs it and compares its outputs.

Each notebook gives up to two of these:
- `book`: at its own settings, outputs compared; marked soak if it takes minutes;
- `small`: at the settings of tests/notebook_settings.py, on the bundled story;
- `story`: as `book`, but on the bundled story, for notebooks that read The Verdict.
Notebooks run in copies of the project, with the network off; those of one folder run in
order, on one worker, so that a solution finds the model that its chapter saved.
"""
import os

import notebooks
import pytest
import run
from notebook_settings import SMALL


def pytest_collect_file(parent, file_path):
    """Make a notebook of the course a test file."""
    if file_path.suffix == ".ipynb" and ".ipynb_checkpoints" not in file_path.parts:
        return NotebookFile.from_parent(parent, path=file_path)


class NotebookFile(pytest.File):
    """A notebook and its runs."""

    def collect(self):
        """Yield the runs of this notebook."""
        name = self.path.relative_to(notebooks.ROOT).as_posix()
        if name in SMALL:
            yield NotebookItem.from_parent(self, name="small", values=SMALL[name])
        elif "the-verdict.txt" in self.path.read_text(encoding="utf-8"):
            yield NotebookItem.from_parent(self, name="story")
        yield NotebookItem.from_parent(self, name="book", is_long=name in SMALL)


class NotebookItem(pytest.Item):
    """One run of one notebook."""

    def __init__(self, *, values=None, is_long=False, **arguments):
        super().__init__(**arguments)
        self.values = values
        self.add_marker(pytest.mark.xdist_group(str(self.path.parent)))
        if is_long:
            self.add_marker(pytest.mark.soak)

    def runtest(self):
        """Run the notebook in this worker's copy of the project; compare its outputs."""
        is_book = self.name == "book"
        tree = tree_of(self.session, "original" if is_book else "story")
        copied = tree / self.path.relative_to(notebooks.ROOT)
        mirror = None if is_book else os.environ.pop("LLM_DATA_MIRROR", None)
        try:
            fresh = notebooks.execute(copied, self.values)
        finally:
            if mirror is not None:
                os.environ["LLM_DATA_MIRROR"] = mirror
        found = notebooks.faults_of_outputs(fresh)
        if is_book:
            stored = notebooks.read(self.path)
            found += notebooks.differences(stored, fresh, run.tolerance_of(self.path))
        if found:
            raise notebooks.NotebookError("\n".join(
                [f"{self.path.name} prints what it should not:", *found]))

    def repr_failure(self, excinfo, style=None):
        """Show a broken notebook by its message, a fault of the plugin by its trace."""
        if isinstance(excinfo.value, notebooks.NotebookError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self):
        """Return file, line and name for the report."""
        return self.path, 0, f"{self.path.name} [{self.name}]"


def tree_of(session, kind):
    """Return this worker's copy of the project for runs of one kind, made once."""
    trees = session.__dict__.setdefault("notebook_trees", {})
    if kind not in trees:
        folder = session.config._tmp_path_factory.mktemp(kind)
        trees[kind] = notebooks.copy_tree(folder)
    return trees[kind]
