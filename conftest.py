"""What every test relies on: no network, one thread a worker, the data's house rule."""
import atexit
import os
import shutil
import tempfile

# before torch is imported, and inherited by kernels and subprocesses
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
    os.environ[name] = "http://127.0.0.1:9"        # nothing listens: a download fails
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = "localhost,127.0.0.1"       # local servers of tests stay reachable
# an empty cache: what works here works on a machine that never saw a network
cache = tempfile.mkdtemp(prefix="course-tests-")
os.environ["TIKTOKEN_CACHE_DIR"] = cache
atexit.register(shutil.rmtree, cache, ignore_errors=True)

import helpers  # noqa: E402
import pytest  # noqa: E402

pytest_plugins = ["notebook_plugin"]


@pytest.fixture(scope="session")
def verdict(tmp_path_factory):
    """The text of The Verdict; without it the test is skipped.

    Where a mirror is named the text must be there, so that a skip cannot hide a fault.
    """
    fetch = helpers.load_file("tools/fetch.py")
    path = fetch.fetch("the-verdict.txt", folder=tmp_path_factory.mktemp("verdict"))
    if path.name != "the-verdict.txt":
        if "LLM_DATA_MIRROR" in os.environ:
            pytest.fail("LLM_DATA_MIRROR is set, but has no usable the-verdict.txt")
        pytest.skip("The Verdict is not here and there is no network in the tests")
    return path.read_text(encoding="utf-8")
