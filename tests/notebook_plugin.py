"""Pytest plugin: every notebook is a test that runs it and compares its outputs.

A notebook of tests/notebook_settings.py gives two tests: `small` always, and `book`
(marked soak) at its own settings; the others give `book` alone. Outputs are compared at
the book's settings only. Notebooks run in a copy of the project; those of one folder
run in order, on one worker, so that a solution finds the model that its chapter saved.
"""
import notebooks
import pytest
import run
from notebook_settings import SMALL


def pytest_collect_file(parent, file_path):
    """Make a notebook of the course a test file."""
    if file_path.suffix == ".ipynb" and ".ipynb_checkpoints" not in file_path.parts:
        return NotebookFile.from_parent(parent, path=file_path)


class NotebookFile(pytest.File):
    """A notebook: one test, or two if it has small settings."""

    def collect(self):
        """Yield the runs of this notebook."""
        name = self.path.relative_to(notebooks.ROOT).as_posix()
        if name in SMALL:
            yield NotebookItem.from_parent(self, name="small", values=SMALL[name])
        yield NotebookItem.from_parent(
            self, name="book", values=None, is_long=name in SMALL)


class NotebookItem(pytest.Item):
    """One run of one notebook."""

    def __init__(self, *, values, is_long=False, **arguments):
        super().__init__(**arguments)
        self.values = values
        self.add_marker(pytest.mark.xdist_group(str(self.path.parent)))
        if is_long:
            self.add_marker(pytest.mark.soak)

    def runtest(self):
        """Run the notebook in the worker's copy of the project and compare."""
        tree = tree_of(self.session)
        fresh = notebooks.execute(tree / self.path.relative_to(notebooks.ROOT),
                                  self.values)
        if self.values is None:
            stored = notebooks.read(self.path)
            found = notebooks.differences(stored, fresh, run.tolerance_of(self.path))
            if found:
                raise notebooks.NotebookError("\n".join(
                    [f"{self.path.name} prints something else than it stores:", *found]))

    def repr_failure(self, excinfo, style=None):
        """Show a broken notebook by its message, a fault of the plugin by its trace."""
        if isinstance(excinfo.value, notebooks.NotebookError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self):
        """Return file, line and name for the report."""
        return self.path, 0, f"{self.path.name} [{self.name}]"


def tree_of(session):
    """Return this worker's copy of the project, made once."""
    if not hasattr(session, "notebook_tree"):
        factory = session.config._tmp_path_factory
        session.notebook_tree = notebooks.copy_tree(factory.mktemp("tree"))
    return session.notebook_tree
