# from ch05/01_main-chapter-code/gpt_download.py
"""GPT-2's published weights as plain numpy arrays, from whichever place has them.

`load_pretrained` is the loader that the course uses. It takes the first it can get:

1. OpenAI's own files (2019), TensorFlow checkpoints;
2. the same weights as safetensors files, from Hugging Face;
3. the small model that the course carries.

`download_and_load_gpt2` is the first of these alone. All give the same `params`:

    {"wte": (vocab_size, emb_dim), "wpe": (context_length, emb_dim),
     "g": (emb_dim,), "b": (emb_dim,),                        # the last LayerNorm
     "blocks": [{"attn": {"c_attn": {"w": (emb_dim, 3 * emb_dim), "b": ...},
                          "c_proj": {"w": (emb_dim, emb_dim), "b": ...}},
                 "mlp": {"c_fc": {"w": (emb_dim, 4 * emb_dim), "b": ...},
                         "c_proj": {"w": (4 * emb_dim, emb_dim), "b": ...}},
                 "ln_1": {"g": (emb_dim,), "b": (emb_dim,)}, "ln_2": ...}, ...]}

in float32, each matrix as (in, out). TensorFlow is used if it is installed; it need not
be, since a checkpoint can be read with numpy alone (see `read_tf_checkpoint`).
"""
import contextlib
import io
import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fetch import FetchError, Source, fetch

Arrays = Mapping[str, np.ndarray]
Params = dict[str, Any]

OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/models/"
OPENAI_BACKUP = "https://f001.backblazeb2.com/file/LLMs-from-scratch/gpt2/"
OPENAI_FILES = ("hparams.json", "checkpoint", "model.ckpt.index",
                "model.ckpt.data-00000-of-00001")
# bytes; sizes that are not listed are checked by the reader alone
FILE_SIZES = {
    "124M": {"hparams.json": 90, "checkpoint": 77, "model.ckpt.index": 5_215,
             "model.ckpt.data-00000-of-00001": 497_759_232},
    "355M": {"hparams.json": 91, "checkpoint": 77, "model.ckpt.index": 10_399,
             "model.ckpt.data-00000-of-00001": 1_419_292_672},
    "1558M": {"hparams.json": 91, "checkpoint": 77},
}
HUGGING_FACE = "https://huggingface.co/openai-community/"
HUGGING_FACE_NAMES = {"124M": "gpt2", "355M": "gpt2-medium", "774M": "gpt2-large",
                      "1558M": "gpt2-xl"}
MODEL_SIZES = tuple(HUGGING_FACE_NAMES)
# a folder of the course with config.json and model.safetensors
BUNDLED_MODEL = "ch05/03_bonus_pretraining_on_gutenberg/gpt2-mini"
MINI = "gpt2-mini"

DOWNLOAD_AGAIN = "delete it and download it again"
USE_TENSORFLOW = "install tensorflow, which can read it"

BLOCK_PARTS = ("ln_1/g", "ln_1/b", "attn/c_attn/w", "attn/c_attn/b",
               "attn/c_proj/w", "attn/c_proj/b", "ln_2/g", "ln_2/b",
               "mlp/c_fc/w", "mlp/c_fc/b", "mlp/c_proj/w", "mlp/c_proj/b")


# --- where the weights come from ------------------------------------------------------

def load_pretrained(
    base_config: dict[str, Any], model_size: str = "124M",
    models_dir: str | Path = "gpt2",
) -> Params | None:
    """Return pretrained params and rewrite base_config, in place, to their sizes.

    model_size is a published one, or "gpt2-mini" for the course's small model, which
    also stands in where the published weights cannot be had. Prints one line that says
    which weights were taken. Returns None, base_config untouched, if none can be had.
    Raises ValueError for an unknown model_size.
    """
    label, places = model_size, []
    if model_size != MINI:
        _check_model_size(model_size)
        label = f"GPT-2 {model_size}"
        places = [("OpenAI's files", _load_from_openai,
                   [Path(models_dir) / model_size / name for name in OPENAI_FILES]),
                  ("Hugging Face's", _load_from_hugging_face,
                   [_hugging_face_folder(model_size, models_dir) / "model.safetensors"])]
        # what lies here goes first: nobody should download half a GB for nothing
        places.sort(key=lambda place: not all(path.is_file() for path in place[2]))
    places.append(("the course's small model", _load_from_course, []))

    failures = []
    for name, load, _ in places:
        lines = io.StringIO()              # fetch prints a line a file: keep the last
        try:
            with contextlib.redirect_stdout(lines):
                config, params = load(model_size, models_dir)
        except (FetchError, OSError, ValueError) as error:
            failures.append(f"{name}: {_reason(error)}")
            continue
        origin = lines.getvalue().strip().rpartition("\n")[2].rpartition(": ")[2]
        before = f" ({'; '.join(failures)})" if failures else ""
        print(f"{label}: {name}, {origin}{before}")
        base_config.update(config)
        return params
    cure = (f"It comes with the whole course, in {BUNDLED_MODEL}" if model_size == MINI
            else f"To use it, put {', '.join(OPENAI_FILES)} into "
            f"{Path(models_dir).name}/{model_size}, or set LLM_DATA_MIRROR")
    print(f"{label} could not be had ({'; '.join(failures)}). {cure}.")
    return None


def download_and_load_gpt2(
    model_size: str, models_dir: str | Path,
) -> tuple[dict[str, int], Params]:
    """Return (settings, params) of OpenAI's GPT-2, downloaded if it is not here.

    settings has n_vocab, n_ctx, n_embd, n_head, n_layer. Raises ValueError for an
    unknown model_size or damaged files, FetchError if the files cannot be had.
    """
    _check_model_size(model_size)
    folder = Path(models_dir) / model_size
    for name in OPENAI_FILES:
        size = FILE_SIZES.get(model_size, {}).get(name)
        path = folder / name
        found = path.stat().st_size if path.is_file() else size
        if size is not None and found != size:
            raise _damaged(path, f"has {found:,} bytes instead of {size:,}")
        # addresses have "/" on every system, so they are not joined as paths are
        address = f"{model_size}/{name}"
        fetch(name, Source(OPENAI + address, OPENAI_BACKUP + address, size=size),
              folder)
    settings = _read_json(folder / "hparams.json")
    return settings, load_gpt2_params_from_tf_ckpt(folder / "model.ckpt", settings)


def load_model_folder(folder: str | Path) -> tuple[dict[str, Any], Params]:
    """Return (config, params) of a folder with config.json and model.safetensors.

    config has the course's names (emb_dim, ...). Raises FileNotFoundError if one is
    missing, ValueError if it is damaged or no GPT-2.
    """
    path = Path(folder) / "config.json"
    settings = _read_json(path)
    # what a GPT-2 may be configured to do, and our GPTModel would silently not do
    for key, expected in (
        ("model_type", ("gpt2",)), ("layer_norm_epsilon", (1e-5,)),
        ("activation_function", ("gelu_new", "gelu_pytorch_tanh")),
        ("scale_attn_weights", (True,)), ("scale_attn_by_inverse_layer_idx", (False,)),
        ("tie_word_embeddings", (True,)),
    ):
        if settings.get(key, expected[0]) not in expected:
            raise ValueError(f"{path}: {key} is {settings[key]!r}; GPTModel knows only "
                             f"{expected[0]!r}. Take a folder with a plain GPT-2.")
    config = _our_config(settings, path)
    params = load_gpt2_params_from_safetensors(Path(folder) / "model.safetensors")
    _check_shapes(params, config, path)
    return config, params


def _load_from_openai(model_size: str, models_dir: str | Path) -> tuple[dict, Params]:
    settings, params = download_and_load_gpt2(model_size, models_dir)
    path = Path(models_dir) / model_size / "hparams.json"
    config = _our_config(settings, path)
    _check_shapes(params, config, path)
    return config, params


def _load_from_hugging_face(
    model_size: str, models_dir: str | Path,
) -> tuple[dict, Params]:
    folder = _hugging_face_folder(model_size, models_dir)
    for name in ("config.json", "model.safetensors"):
        address = f"{HUGGING_FACE}{HUGGING_FACE_NAMES[model_size]}/resolve/main/{name}"
        fetch(name, Source(address), folder)
    return load_model_folder(folder)


def _load_from_course(model_size: str, models_dir: str | Path) -> tuple[dict, Params]:
    for parent in Path(__file__).resolve().parents:
        if (parent / BUNDLED_MODEL / "config.json").is_file():
            config, params = load_model_folder(parent / BUNDLED_MODEL)
            print(f"{MINI} of {config['n_layers']} layers, "
                  f"emb_dim {config['emb_dim']}, context {config['context_length']}; "
                  "texts and numbers differ from the book's")
            return config, params
    raise FileNotFoundError("not in this copy")


def _reason(error: Exception) -> str:
    """Return in a few words why a place could not be used."""
    if not isinstance(error, FetchError):
        return str(error)
    reasons = [reason.partition(": ")[2] for reason in error.reasons]
    return f"not reachable [{reasons[0]}]" if reasons else str(error)


def _hugging_face_folder(model_size: str, models_dir: str | Path) -> Path:
    return Path(models_dir) / "openai-community" / HUGGING_FACE_NAMES[model_size]


def _check_model_size(model_size: str) -> None:
    if model_size not in MODEL_SIZES:
        raise ValueError(f"Model size not in {MODEL_SIZES}: {model_size!r}")


# --- from names in a file to params ---------------------------------------------------

def load_gpt2_params_from_tf_ckpt(
    ckpt_path: str | Path, settings: Mapping[str, int],
) -> Params:
    """Return params of the TensorFlow checkpoint with the prefix ckpt_path.

    Raises FileNotFoundError if a file is missing, ValueError if one is damaged or does
    not hold the blocks that settings["n_layer"] promises.
    """
    arrays = _read_with_tensorflow(ckpt_path)
    if arrays is None:
        arrays = read_tf_checkpoint(ckpt_path)
    return _arrange(arrays, settings["n_layer"], "model/{}".format, ckpt_path)


def _read_with_tensorflow(prefix: str | Path) -> dict[str, np.ndarray] | None:
    """Return name -> array of the checkpoint's model, or None without TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")     # no greeting in the notebook
    try:
        import tensorflow as tf
    except Exception:      # absent, or installed and broken: numpy reads the same
        return None
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        return {name: reader.get_tensor(name)
                for name in reader.get_variable_to_shape_map()
                if name.startswith("model/")}
    except Exception as error:
        read_tf_checkpoint(prefix)     # says which file it is, if that can be seen
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _damaged(f"{prefix}.data-*", f"is damaged ({reason})") from error


def load_gpt2_params_from_safetensors(path: str | Path) -> Params:
    """Return params of a GPT-2 in Hugging Face's names.

    Buffers (attn.bias, masked_bias) and lm_head, which is wte again, are left out.
    Raises FileNotFoundError or, if the file is damaged or no GPT-2, ValueError.
    """
    arrays = {name.removeprefix("transformer."): array
              for name, array in read_safetensors(path).items()}
    n_layer = len({name.split(".")[1] for name in arrays if name.startswith("h.")})
    return _arrange(arrays, n_layer, _hugging_face_name, path)


def _hugging_face_name(name: str) -> str:
    """Return Hugging Face's name of a variable: h0/ln_1/g is h.0.ln_1.weight."""
    *levels, last = name.split("/")
    if not levels:                                     # wte and wpe
        return f"{last}.weight"
    levels[0] = re.sub(r"^h(\d+)$", r"h.\1", levels[0])
    return ".".join([*levels, "bias" if last == "b" else "weight"])


def _arrange(arrays: Arrays, n_layer: int, name_of: Callable[[str], str],
             path: str | Path) -> Params:
    """Return arrays as params; name_of turns OpenAI's names into those of arrays."""
    def take(name: str) -> np.ndarray:
        if name_of(name) not in arrays:
            raise ValueError(f"{path} has no {name_of(name)!r}: these are not the "
                             f"weights of a GPT-2 with {n_layer} blocks")
        # OpenAI's matrices have a leading 1: they were kernels of width 1
        return np.squeeze(arrays[name_of(name)]).astype(np.float32, copy=False)

    params: Params = {"blocks": [{} for _ in range(n_layer)],
                      "wte": take("wte"), "wpe": take("wpe"),
                      "g": take("ln_f/g"), "b": take("ln_f/b")}
    for n, block in enumerate(params["blocks"]):
        for part in BLOCK_PARTS:
            *levels, last = part.split("/")
            place = block
            for level in levels:
                place = place.setdefault(level, {})
            place[last] = take(f"h{n}/{part}")
    if name_of(f"h{n_layer}/ln_1/g") in arrays:
        raise ValueError(f"{path} has more than the {n_layer} blocks of its settings")
    return params


def _our_config(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return OpenAI's or Hugging Face's settings under the course's names."""
    try:
        config = {
            "vocab_size": settings.get("n_vocab") or settings["vocab_size"],
            "context_length": settings.get("n_ctx") or settings["n_positions"],
            "emb_dim": settings["n_embd"],
            "n_heads": settings["n_head"],
            "n_layers": settings["n_layer"],
        }
    except KeyError as error:
        raise ValueError(f"{path} does not say {error}: it is not a GPT-2's") from None
    for key, value in config.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{path}: {key} cannot be {value!r}")
    return {**config, "qkv_bias": True}


def _check_shapes(params: Params, config: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError if config, which stands in path, is not that of params."""
    emb_dim = config["emb_dim"]
    for key, expected, found in (
        ("tokens", (config["vocab_size"], emb_dim), params["wte"].shape),
        ("positions", (config["context_length"], emb_dim), params["wpe"].shape),
        ("blocks", config["n_layers"], len(params["blocks"])),
        ("feed-forward", (4 * emb_dim,), params["blocks"][0]["mlp"]["c_fc"]["b"].shape),
        ("width modulo heads", 0, emb_dim % config["n_heads"]),
    ):
        if expected != found:
            raise ValueError(f"{path} does not fit the weights beside it ({key}: "
                             f"{expected} against {found}); get both from one place")


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; ValueError if it holds something else."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:                 # not UTF-8, or not JSON
        value = None
    if not isinstance(value, dict):
        raise _damaged(path, "is not JSON")
    return value


def _damaged(path: str | Path, what: str) -> ValueError:
    """Return the error for a file that did not arrive whole."""
    return ValueError(f"{path} {what}; {DOWNLOAD_AGAIN}")


# --- TensorFlow's checkpoint format, read with numpy ----------------------------------
# A checkpoint with the prefix P is P.index, a table from variable names to places, and
# P.data-00000-of-00001, ... ("shards"), the numbers one after the other.
# Sources: tensorflow/core/util/tensor_bundle/tensor_bundle.h and
# tensorflow/core/protobuf/tensor_bundle.proto (the entries), LevelDB's
# doc/table_format.md (the table), protobuf.dev/programming-guides/encoding (messages).

TABLE_MAGIC = 0xDB4775248B80FB57       # the last 8 bytes of every LevelDB table
BFLOAT16 = "bfloat16"                  # the upper half of a float32; numpy lacks it
# numbers of tensorflow/core/framework/types.proto; 7 is a string
TF_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8",
             10: "?", 14: BFLOAT16, 17: "<u2", 19: "<f2", 22: "<u4", 23: "<u8"}
TF_STRING = 7


class _Entry(NamedTuple):
    """Where a variable lies: a BundleEntryProto."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


def read_tf_checkpoint(prefix: str | Path) -> dict[str, np.ndarray]:
    """Return name -> array of the TensorFlow checkpoint prefix, without TensorFlow.

    The arrays are views of the memory-mapped files, read when they are used; bfloat16
    becomes float32, and strings (how a checkpoint records Python objects) are left out.
    The index is verified by its checksums, of the data only the size. Raises
    FileNotFoundError or ValueError with the file and what to do.
    """
    index = Path(f"{prefix}.index")
    if not index.is_file():
        raise FileNotFoundError(f"{index} is missing; download it again")
    try:
        table = dict(_table_entries(index.read_bytes()))
        header = dict(_fields(table.pop(b"")))   # the empty key: a BundleHeaderProto
        places = {name: _entry(message) for name, message in table.items()}
        entries = {name.decode("utf-8"): place for name, place in places.items()}
    except (IndexError, KeyError, struct.error, TypeError, UnicodeDecodeError):
        raise _damaged(index, "is cut short or not a checkpoint's index") from None
    except ValueError as error:
        raise ValueError(f"{index} {error}") from None
    num_shards, is_big_endian = header.get(1, 0), header.get(2, 0)
    if is_big_endian:
        raise ValueError(f"{index} says big-endian numbers; {USE_TENSORFLOW}")
    paths = [Path(f"{prefix}.data-{i:05d}-of-{num_shards:05d}")
             for i in range(num_shards)]
    shards = [_map_file(path) for path in paths]
    return {name: _take(shards[entry.shard], entry, name, paths[entry.shard])
            for name, entry in entries.items() if entry.dtype != TF_STRING}


def _take(shard: np.ndarray, entry: _Entry, name: str, path: Path) -> np.ndarray:
    """Return the array that entry describes, a view of shard (bytes,)."""
    if entry.dtype not in TF_DTYPES:
        raise ValueError(f"{path}: {name} has TensorFlow's data type {entry.dtype}; "
                         f"{USE_TENSORFLOW}")
    data = shard[entry.offset:entry.offset + entry.size]
    if len(data) != entry.size:
        raise _damaged(path, "is cut short")
    return _as_array(data, TF_DTYPES[entry.dtype], entry.shape, name, path)


def _table_entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, value) pairs of a LevelDB table (SSTable), sorted by key."""
    footer = table[-48:]               # two block handles, zeros up to 40, the magic
    if len(table) < 48 or int.from_bytes(footer[40:], "little") != TABLE_MAGIC:
        raise ValueError(f"is cut short or not a checkpoint's index; {DOWNLOAD_AGAIN}")
    _, end_of_metaindex = _handle(footer, 0)      # the metaindex holds nothing for us
    index_block, _ = _handle(footer, end_of_metaindex)
    for _, handle in _block_entries(table, *index_block):
        data_block, _ = _handle(handle, 0)
        yield from _block_entries(table, *data_block)


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Return a block handle, (offset, size) in the file, and where it ends."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _block_entries(
    table: bytes, offset: int, size: int,
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, value) pairs of one block of a table."""
    block = table[offset:offset + size]
    kind = table[offset + size]        # a trailer: 1 byte compression, 4 bytes checksum
    checksum, = struct.unpack_from("<I", table, offset + size + 1)
    if checksum != _masked_crc32c(block + bytes([kind])):
        raise ValueError(f"is damaged (its checksum differs); {DOWNLOAD_AGAIN}")
    if kind != 0:
        raise ValueError(f"is compressed (type {kind}); {USE_TENSORFLOW}")
    # at the end of a block stand its restart points, 4 bytes each, and their number
    num_restarts, = struct.unpack("<I", block[-4:])
    end, position, key = size - 4 * (num_restarts + 1), 0, b""
    while position < end:
        # a key is written as how much it shares with the key before, and the rest
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position:position + unshared]
        position += unshared
        yield key, block[position:position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return an integer of 7 bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:                # the highest bit says: another byte follows
            return value, position
        shift += 7


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of a protobuf message: int or bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:                               # an integer
            value, position = _varint(message, position)
        else:                       # 4 or 8 bytes, or as many as the next number says
            size = {1: 8, 5: 4}.get(wire_type)
            if size is None:
                size, position = _varint(message, position)
            value = message[position:position + size]
            position += size
        yield number, value


def _entry(message: bytes) -> _Entry:
    """Return the place that a BundleEntryProto describes."""
    shape: list[int] = []
    values = {1: 0, 3: 0, 4: 0, 5: 0}      # a field with the value 0 is not written
    for number, value in _fields(message):
        if number == 2:                    # TensorShapeProto: field 2 is a dimension,
            for key, dim in _fields(value):             # whose field 1 is its size
                if key == 2:
                    shape.append(dict(_fields(dim)).get(1, 0))
        elif number == 7:
            raise ValueError(f"has variables cut into slices; {USE_TENSORFLOW}")
        elif number in values:             # dtype, shard, offset, size
            values[number] = value
    return _Entry(values[1], tuple(shape), values[3], values[4], values[5])


def _masked_crc32c(data: bytes) -> int:
    """Return the checksum of a block: CRC-32C, rotated and shifted as LevelDB does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# --- Hugging Face's files -------------------------------------------------------------

def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Return name -> array of a safetensors file; floats of every width as float32.

    Raises FileNotFoundError, or ValueError if the file is damaged.
    """
    from safetensors import SafetensorError, safe_open     # the course runs without it

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing; download it again")
    try:
        # through torch, since numpy has no bfloat16
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise _damaged(path, f"is cut short or no safetensors file ({error})") from None
    return {name: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
            for name, tensor in tensors.items()}


# --- files and bytes ------------------------------------------------------------------

def _map_file(path: Path) -> np.ndarray:
    """Return the bytes of a file, (bytes,) uint8, read from disk only when used."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; download it again")
    if path.stat().st_size == 0:
        return np.empty(0, np.uint8)             # nothing cannot be mapped
    # "c": writing into the arrays changes them, never the file
    return np.memmap(path, np.uint8, mode="c").view(np.ndarray)


def _as_array(data: np.ndarray, dtype: str, shape: tuple[int, ...], name: str,
              path: Path) -> np.ndarray:
    """Return data (bytes,) as an array of dtype and shape."""
    item = np.dtype("<u2" if dtype == BFLOAT16 else dtype)
    if len(data) != math.prod(shape) * item.itemsize:
        raise _damaged(path, f"has {len(data):,} bytes for {name} of shape {shape}")
    array = data.view(item).reshape(shape)
    if dtype == BFLOAT16:
        return (array.astype("<u4") << 16).view("<f4")
    return array
