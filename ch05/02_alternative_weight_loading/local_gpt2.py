"""Where a GPT-2 in Hugging Face's form lies on this machine; nothing is downloaded.

`find_gpt2_folder` returns the first folder that holds config.json and model.safetensors:

1. Hugging Face's cache (HF_HOME and HF_HUB_CACHE count). One command fills it, once, with
   0.5 GB: `hf download openai-community/gpt2 config.json model.safetensors`;
2. gpt2/openai-community/gpt2, here or in chapter 5's folder, where gpt_download.py puts it;
3. the small model that the course carries.
"""
import os
from collections.abc import Iterator
from pathlib import Path

from gpt_download import BUNDLED_MODEL

REPOSITORIES = ("openai-community/gpt2", "gpt2")       # the new address and the old one
FILES = ("config.json", "model.safetensors")
DOWNLOADED = Path("gpt2") / "openai-community" / "gpt2"
CHAPTER = "ch05/01_main-chapter-code"


def find_gpt2_folder() -> Path:
    """Return a folder with GPT-2's two files and print which model it is.

    Raises FileNotFoundError, which says what to do, if there is none.
    """
    for name, folder in _places():
        if all((folder / file).is_file() for file in FILES):
            print(f"GPT-2 weights: {name}")
            return folder
    raise FileNotFoundError(
        f"no GPT-2 is on this machine. Get the course's folder {BUNDLED_MODEL}, or run "
        f"`hf download {REPOSITORIES[0]} {' '.join(FILES)}`.")


def _places() -> Iterator[tuple[str, Path]]:
    """Yield (what to print, folder), the best weights first."""
    for repository in REPOSITORIES:
        if folder := _in_cache(repository):
            yield f"OpenAI's, {repository} from Hugging Face's cache", folder
    course = Path(__file__).resolve().parents
    for folder in (Path("."), *(parent / CHAPTER for parent in course)):
        yield "OpenAI's, downloaded earlier by gpt_download.py", folder / DOWNLOADED
    for folder in course:
        yield (f"{Path(BUNDLED_MODEL).name}, the course's own; OpenAI's are not on this "
               "machine"), folder / BUNDLED_MODEL


def _in_cache(repository: str) -> Path | None:
    """Return the folder of repository in Hugging Face's cache, which is only read."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:            # without transformers there is no cache to look into
        return None
    found = try_to_load_from_cache(
        repository, FILES[-1], cache_dir=os.environ.get("HF_HUB_CACHE"))
    return Path(found).parent if isinstance(found, str) else None
