# from tools/fetch.py
"""Every file that the course does not carry comes through this one door.

Original: tools/fetch.py; the copies beside notebooks and scripts are generated. `fetch`
looks in this order and prints one line that says what it took:

1. the working folder, and the folders of the course that may hold the file already;
2. a mirror: LLM_DATA_MIRROR, a folder or an http address laid out as <host>/<path>;
3. the original address, then a backup address;
4. the default that the course carries under a name of its own.

What comes over the network is checked (sha256), resumed after a break, and renamed into
place only when it is whole.
"""
import hashlib
import os
import shutil
import zipfile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

TIMEOUT = (5, 60)      # seconds to connect, seconds between two pieces


class Source(NamedTuple):
    """Where a file comes from and how to know that it is the right one."""

    url: str
    backup_url: str | None = None
    sha256: str | None = None
    member: str | None = None      # the file inside a zip that sha256 is about
    folder: str | None = None      # folder of the course that may hold it already
    bundled: str | None = None     # the course's own default, relative to its root
    difference: str = ""           # what the reader sees differ with that default
    size: int | None = None        # bytes; a check for files whose sha256 is not known


REFERENCE = "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/"

SOURCES = {
    # Edith Wharton, The Verdict (1908), public domain
    "the-verdict.txt": Source(
        url=REFERENCE + "ch02/01_main-chapter-code/the-verdict.txt",
        sha256="b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
        folder="ch02/01_main-chapter-code",
        bundled="ch02/01_main-chapter-code/the-sign-painter.txt",
        difference="counts, ids and losses of the text differ from the book's",
    ),
}

_offline = False       # after the first failed connection nothing else is tried


class FetchError(Exception):
    """A file could not be had; the message names it, each try, and what to do."""

    reasons: list[str] = []        # what went wrong, address by address


def fetch(name: str, source: Source | None = None, folder: str | Path = ".") -> Path:
    """Return the path of the file called name, getting it if it is not here.

    source defaults to the register's entry. Raises FetchError if no place has the file.
    """
    source = source or SOURCES[name]
    wanted = Path(folder) / name
    places = [wanted, _original(wanted)]
    if source.folder and (root := _course_root(source.folder)):
        places.append(root / source.folder / name)
    for path in places:
        if path.is_file():
            if _is_right(path, source):
                print(f"{name}: found here")
                return path
            print(f"{name}: the copy here is not the original and is left alone")

    reasons = []
    for address in _addresses(source):
        partial = wanted.with_name(wanted.name + ".part")
        try:
            _copy(address, partial)
            if not _is_right(partial, source):
                partial.unlink()
                raise FetchError("content is not the expected one")
        except (OSError, FetchError) as error:       # requests' errors are OSErrors
            reasons.append(f"{_shown(address)}: {_first_line(error)}")
            continue
        if wanted.exists():                          # never over somebody's own file
            wanted = _original(wanted)
        os.replace(partial, wanted)
        print(f"{name}: from {_shown(address)}")
        return wanted

    if source.bundled and (root := _course_root(source.bundled)):
        path = root / source.bundled
        print(f"{name}: not reachable, so {path.name}, which the course carries, "
              f"takes its place; {source.difference}")
        return path
    error = FetchError(
        f"{name} could not be had ({'; '.join(reasons) or 'no address'}). "
        f"Put the file into the working folder, or set LLM_DATA_MIRROR to a folder "
        f"that holds it as {_mirrored(source.url)}."
    )
    error.reasons = reasons
    raise error


def _original(wanted: Path) -> Path:
    """Return where the original goes when somebody's own file has its name."""
    return wanted.with_name(f"{wanted.stem}.original{wanted.suffix}")


def _addresses(source: Source) -> list[str]:
    """Return the addresses to try, the mirror's first."""
    addresses = []
    if mirror := os.environ.get("LLM_DATA_MIRROR"):
        addresses.append(mirror.rstrip("/\\") + "/" + _mirrored(source.url))
    return addresses + [url for url in (source.url, source.backup_url) if url]


def _mirrored(url: str) -> str:
    """Return the path of url in a mirror: host/path, without the scheme."""
    parts = urlsplit(url)
    return parts.netloc + parts.path


def _copy(address: str, partial: Path) -> None:
    """Bring address (a path or an http address) to partial, continuing a part."""
    if not address.startswith(("http://", "https://")):
        os.stat(address)                             # no empty folder for nothing
        partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(address, partial)
        return
    global _offline
    if _offline:
        raise FetchError("not tried, the network did not answer before")
    import requests       # only what is not here already needs it

    start = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"}        # so that the lengths below agree
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = requests.get(address, headers=headers, timeout=TIMEOUT, stream=True)
    except (requests.ConnectionError, requests.Timeout):
        _offline = True
        raise
    with response:
        if response.status_code == 416:              # the part was already whole
            return
        response.raise_for_status()
        resumed = response.status_code == 206
        size = int(response.headers.get("Content-Length", 0)) + start * resumed
        partial.parent.mkdir(parents=True, exist_ok=True)
        from tqdm.auto import tqdm

        with open(partial, "ab" if resumed else "wb") as file, tqdm(
            total=size or None, initial=start * resumed, unit="B", unit_scale=True,
            desc=partial.stem, disable=size < 10_000_000,
        ) as bar:
            for piece in response.iter_content(1 << 16):
                file.write(piece)
                bar.update(len(piece))
    if size and partial.stat().st_size != size:
        raise FetchError(f"broke off at {partial.stat().st_size:,} of {size:,} bytes; "
                         "the next try goes on from there")


def _is_right(path: Path, source: Source) -> bool:
    """Tell whether path has the size and the checksum that source names, if any."""
    if source.size is not None and path.stat().st_size != source.size:
        return False
    if source.sha256 is None:
        return True
    digest = hashlib.sha256()
    try:
        if source.member:
            with zipfile.ZipFile(path) as archive, archive.open(source.member) as file:
                for piece in iter(lambda: file.read(1 << 20), b""):
                    digest.update(piece)
        else:
            with open(path, "rb") as file:
                for piece in iter(lambda: file.read(1 << 20), b""):
                    digest.update(piece)
    except (zipfile.BadZipFile, KeyError):
        return False
    return digest.hexdigest() == source.sha256


def _course_root(relative: str) -> Path | None:
    """Return the folder above this file that holds relative, or None."""
    for folder in Path(__file__).resolve().parents:
        if (folder / relative).exists():
            return folder
    return None


def _shown(address: str) -> str:
    """Return address as it may be printed: never a path of this machine."""
    if address.startswith(("http://", "https://")):
        return address
    return "the mirror in LLM_DATA_MIRROR"


def _first_line(error: Exception) -> str:
    """Return a short reason without local paths."""
    if isinstance(error, FileNotFoundError):
        return "not there"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return type(error).__name__ if len(text) > 120 else text
