"""Run notebooks at the book's settings and store their outputs, clean.

Usage: python tools/run.py NOTEBOOK [NOTEBOOK ...] [--images FOLDER] [--check]

Each notebook runs in a copy of the project, in the order given, so that nothing it
writes lands in the checkout; notebooks of one call share the copy, so that a solution
finds the model that its chapter saved. --check compares and stores nothing.
"""
import argparse
import sys
import tempfile
import time
from pathlib import Path

import notebooks

TOLERANCES = {"ch04": 1e-3, "ch05": 1e-3}      # full-size logits; elsewhere 2e-4


def tolerance_of(path: Path) -> float:
    """Return the tolerance for numbers with a point in the outputs of a notebook."""
    return TOLERANCES.get(path.resolve().relative_to(notebooks.ROOT).parts[0], 2e-4)


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="+", type=Path)
    parser.add_argument("--images", type=Path, help="also write the pictures there")
    parser.add_argument("--check", action="store_true", help="compare, store nothing")
    options = parser.parse_args()
    missing = [str(p) for p in options.notebook if not p.is_file()]
    if missing:
        print(f"no such notebook: {', '.join(missing)}", file=sys.stderr)
        return 2
    failed = 0
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        tree = notebooks.copy_tree(Path(folder))
        for path in options.notebook:
            failed += not run_one(path.resolve(), tree, options)
    return 1 if failed else 0


def run_one(path: Path, tree: Path, options: argparse.Namespace) -> bool:
    """Run one notebook in tree; store or compare; tell whether all is well."""
    start = time.perf_counter()
    copied = tree / path.relative_to(notebooks.ROOT)
    stored = notebooks.read(path)
    try:
        fresh = notebooks.execute(copied)
        faults = notebooks.faults_of_outputs(fresh)
    except notebooks.NotebookError as error:
        print(error, file=sys.stderr)
        return False
    if options.check:
        faults += notebooks.differences(stored, fresh, tolerance_of(path))
    elif not faults:
        notebooks.write(fresh, path)
    if options.images:
        notebooks.save_images(fresh, options.images, path.stem)
    for fault in faults:
        print(f"{path.name}: {fault}", file=sys.stderr)
    print(f"{path.name}: {time.perf_counter() - start:.0f} s"
          + ("" if not faults else f", {len(faults)} faults, nothing stored"))
    return not faults


if __name__ == "__main__":
    sys.exit(main())
