"""Loading what the course defines, so that tests see what readers run."""
import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import sync

ROOT = Path(__file__).resolve().parent.parent
# names that several folders use: in one process the first import would win
SHARED_NAMES = ("previous_chapters", "gpt_download", "fetch", "pictures", "drawing")


@contextmanager
def clean_modules(folder):
    """Put folder first on the path and hide modules of the same names elsewhere."""
    hidden = {n: sys.modules.pop(n) for n in SHARED_NAMES if n in sys.modules}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in SHARED_NAMES:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def load_file(name):
    """Return the script or module at name (relative to the root) as a fresh module."""
    path = ROOT / name
    module_name = "loaded_" + "_".join(path.relative_to(ROOT).with_suffix("").parts)
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module      # pickling and dataclasses look there
    with clean_modules(path.parent):
        spec.loader.exec_module(module)
    return module


def definitions(name):
    """Return a module with what the notebook called name imports and defines."""
    home = sync.home_of(sync.find_notebook(name))
    module = ModuleType(home.path.stem)
    module.__file__ = str(home.path)
    sources = [d.source for d in home.definitions.values()]
    siblings = sibling_imports(home.path)
    code = "\n".join([*home.imports.values(), *siblings, *sources])
    with clean_modules(home.path.parent):
        exec(compile(code, home.path.name, "exec"), vars(module))
    return module


def sibling_imports(path):
    """Return the import statements of a notebook that name files beside it."""
    import ast

    import notebooks

    statements = []
    for cell in notebooks.read(path).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    module = getattr(node, "module", None) or node.names[0].name
                    if (path.parent / f"{module.split('.')[0]}.py").exists():
                        statements.append(ast.unparse(node))
    return statements
