"""GPT-2's weights: every place they come from, every way they can be broken."""
import gzip
import http.server
import importlib.util
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from helpers import ROOT, load_file

FOLDER = "ch05/01_main-chapter-code"
# all sizes differ, so that no transposed or swapped array can fit by chance
VOCAB, CONTEXT, WIDTH, HEADS, LAYERS = 53, 11, 15, 5, 2
SETTINGS = {"n_vocab": VOCAB, "n_ctx": CONTEXT, "n_embd": WIDTH, "n_head": HEADS,
            "n_layer": LAYERS}
OUR_CONFIG = {"vocab_size": VOCAB, "context_length": CONTEXT, "emb_dim": WIDTH,
              "n_heads": HEADS, "n_layers": LAYERS, "qkv_bias": True}
BASE_CONFIG = {"vocab_size": 50257, "context_length": 1024, "emb_dim": 768,
               "n_heads": 12, "n_layers": 12, "drop_rate": 0.25, "qkv_bias": False}
SIZE = "774M"            # a size of which no file sizes are known
OPENAI_PATH = f"openaipublic.blob.core.windows.net/gpt-2/models/{SIZE}"
HUGGING_FACE_PATH = "huggingface.co/openai-community/gpt2-large/resolve/main"


# --- weights to read ------------------------------------------------------------------

@pytest.fixture(scope="session")
def hugging_face_model():
    """A GPT-2 of transformers with random numbers in every parameter."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS,
        n_head=HEADS, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(11)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    model.tie_weights()
    return model


@pytest.fixture(scope="session")
def openai_arrays():
    """The variables of a tiny GPT-2 as OpenAI names them, random."""
    generator = np.random.default_rng(5)
    shapes = {"wte": (VOCAB, WIDTH), "wpe": (CONTEXT, WIDTH),
              "ln_f/g": (WIDTH,), "ln_f/b": (WIDTH,)}
    for n in range(LAYERS):
        for part, width_in, width_out in (
            ("attn/c_attn", WIDTH, 3 * WIDTH), ("attn/c_proj", WIDTH, WIDTH),
            ("mlp/c_fc", WIDTH, 4 * WIDTH), ("mlp/c_proj", 4 * WIDTH, WIDTH),
        ):
            shapes[f"h{n}/{part}/w"] = (1, width_in, width_out)
            shapes[f"h{n}/{part}/b"] = (width_out,)
        for norm in ("ln_1", "ln_2"):
            shapes[f"h{n}/{norm}/g"] = shapes[f"h{n}/{norm}/b"] = (WIDTH,)
    return {f"model/{name}": generator.normal(size=shape).astype(np.float32)
            for name, shape in shapes.items()}


def to_openai(model):
    """Return the variables of transformers' model under OpenAI's names, by table."""
    state = {name: t.numpy() for name, t in model.transformer.state_dict().items()}
    arrays = {"model/wte": state["wte.weight"], "model/wpe": state["wpe.weight"],
              "model/ln_f/g": state["ln_f.weight"], "model/ln_f/b": state["ln_f.bias"]}
    for n in range(LAYERS):
        for norm in ("ln_1", "ln_2"):
            arrays[f"model/h{n}/{norm}/g"] = state[f"h.{n}.{norm}.weight"]
            arrays[f"model/h{n}/{norm}/b"] = state[f"h.{n}.{norm}.bias"]
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
            name = f"model/h{n}/{part.replace('.', '/')}"
            arrays[f"{name}/w"] = state[f"h.{n}.{part}.weight"][None]
            arrays[f"{name}/b"] = state[f"h.{n}.{part}.bias"]
    return arrays


def varint(number):
    """Return number in 7 bits a byte."""
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def message(*fields):
    """Return a protobuf message of (field number, int or bytes)."""
    return b"".join(
        varint(n << 3) + varint(value) if isinstance(value, int)
        else varint(n << 3 | 2) + varint(len(value)) + value for n, value in fields)


def write_bundle(prefix, arrays, shards=1, keys_per_block=5, kind=0, big_endian=0,
                 extra_fields=()):
    """Write arrays as a TensorFlow checkpoint; the keywords make it odd."""
    crc = load_file(f"{FOLDER}/gpt_download.py")._masked_crc32c
    dtypes = {"<f4": 1, "<f8": 2, "<i4": 3, "<i8": 9, "<f2": 19, "|b1": 10}
    data = [b"" for _ in range(shards)]
    rows = [(b"", message((1, shards), (2, big_endian), (3, message((1, 1)))))]
    for i, name in enumerate(sorted(arrays)):
        array = arrays[name]
        shard = i % shards
        shape = message(*((2, message((1, size))) for size in array.shape))
        rows.append((name.encode(), message(
            (1, dtypes[array.dtype.str]), (2, shape), (3, shard),
            (4, len(data[shard])), (5, array.nbytes), *extra_fields,
        ) + varint(6 << 3 | 5) + crc(array.tobytes()).to_bytes(4, "little")))
        data[shard] += array.tobytes()

    out = b""

    def block(pairs):
        nonlocal out
        body, last = b"", b""
        for key, value in pairs:
            shared = 0
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
            body += varint(shared) + varint(len(key) - shared) + varint(len(value))
            body += key[shared:] + value
            last = key
        body += bytes(4) + (1).to_bytes(4, "little") + bytes([kind])    # one restart
        handle = varint(len(out)) + varint(len(body) - 1)
        out += body + crc(body).to_bytes(4, "little")
        return handle

    index = []
    for start in range(0, len(rows), keys_per_block):
        pairs = rows[start:start + keys_per_block]
        index.append((pairs[-1][0], block(pairs)))
    footer = (block([]) + block(index)).ljust(40, b"\0")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    magic = 0xDB4775248B80FB57.to_bytes(8, "little")
    prefix.with_name(f"{prefix.name}.index").write_bytes(out + footer + magic)
    for i, content in enumerate(data):
        name = f"{prefix.name}.data-{i:05d}-of-{shards:05d}"
        prefix.with_name(name).write_bytes(content)


def write_openai_folder(folder, arrays, settings=None):
    """Write OpenAI's four files."""
    write_bundle(folder / "model.ckpt", arrays)
    (folder / "hparams.json").write_text(json.dumps(settings or SETTINGS), encoding="utf-8")
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n',
                                       encoding="utf-8")


def write_model_folder(folder, model, **config):
    """Write config.json and model.safetensors as Hugging Face publishes GPT-2."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: t.clone() for name, t in model.transformer.state_dict().items()}
    for n in range(LAYERS):          # the buffers of the published files
        state[f"h.{n}.attn.bias"] = torch.ones(1, 1, CONTEXT, CONTEXT)
        state[f"h.{n}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({
        "model_type": "gpt2", "vocab_size": VOCAB, "n_positions": CONTEXT,
        "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, **config}), encoding="utf-8")


def same_params(one, other):
    """Tell whether two params are equal in structure and in every bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same_params(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_params, one, other))
    return one.dtype == other.dtype == np.float32 and np.array_equal(one, other)


@pytest.fixture
def download(monkeypatch, tmp_path):
    """gpt_download.py in an empty working folder: no network, mirror, model or TF."""
    module = load_file(f"{FOLDER}/gpt_download.py")
    monkeypatch.delenv("LLM_DATA_MIRROR", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    monkeypatch.setitem(sys.modules, "tensorflow", None)     # importing it fails
    return module


@pytest.fixture
def requests_seen(monkeypatch):
    """The addresses asked for, on a machine without a network."""
    import requests

    seen = []

    def get(address, **options):
        seen.append(address)
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", get)
    return seen


# --- TensorFlow and our reader agree --------------------------------------------------

WITH_TENSORFLOW = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
try:
    import tensorflow as tf
except ImportError as error:
    print(error); sys.exit(77)
import numpy as np
v1 = tf.compat.v1
folder, code = sys.argv[1:]
arrays = dict(np.load(f"{folder}/arrays.npz"))
others = {"other/" + t.name: tf.cast(tf.constant([[1.5, -2, 0], [7, 65504, 1]]), t)
          for t in (tf.float64, tf.int32, tf.int64, tf.float16, tf.bfloat16, tf.bool)}

def save(name, sharded=False, partitioner=None):
    os.makedirs(f"{folder}/{name}")
    with tf.Graph().as_default():
        for i, (key, array) in enumerate({**arrays, **others}.items()):
            with tf.device(f"/cpu:{i % 3}" if sharded else "/cpu:0"):
                if partitioner is None:
                    value = array if key in arrays else array.numpy()
                    v1.get_variable(key, initializer=value)
                elif key in arrays and array.ndim == 2:
                    v1.get_variable(key, array.shape, partitioner=partitioner)
        config = v1.ConfigProto(device_count={"CPU": 3})
        with v1.Session(config=config) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver(sharded=sharded).save(session, f"{folder}/{name}/model.ckpt")

save("saver")
save("sharded", sharded=True)
save("sliced", partitioner=v1.fixed_size_partitioner(2))
variables = [tf.Variable(a) for a in arrays.values()]
tf.train.Checkpoint(v=variables).write(f"{folder}/objects/model.ckpt")
names = [f"a/long/name/so/that/the/index/has/blocks/{i:05d}" for i in range(6000)]
os.makedirs(f"{folder}/many")
tf.raw_ops.SaveV2(prefix=f"{folder}/many/model.ckpt", tensor_names=names,
                  shape_and_slices=[""] * 6000,
                  tensors=[tf.constant(i) for i in range(6000)])

for name in ("saver", "sharded", "objects", "many", "ours"):
    reader = tf.train.load_checkpoint(f"{folder}/{name}/model.ckpt")
    found = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
    np.savez(f"{folder}/{name}.npz", **{
        key: a.astype(np.float32) if a.dtype == tf.bfloat16.as_numpy_dtype else a
        for key, a in found.items() if isinstance(a, (np.ndarray, np.generic))})

sys.path.insert(0, code)
import gpt_download
params = gpt_download.load_gpt2_params_from_tf_ckpt(
    f"{folder}/saver/model.ckpt", {"n_layer": 2})
np.save(f"{folder}/params.npy", params, allow_pickle=True)
data = f"{folder}/saver/model.ckpt.data-00000-of-00001"
content = open(data, "rb").read()
for damaged in content[:5000], content[:5000] + b"?" + content[5001:]:
    open(data, "wb").write(damaged)
    try:
        gpt_download.load_gpt2_params_from_tf_ckpt(data[:-20], {"n_layer": 2})
    except ValueError as error:
        print(str(error))
open(data, "wb").write(content)
"""

tensorflow = pytest.mark.xdist_group("tensorflow")     # written once, on one worker


@pytest.fixture(scope="module")
def by_tensorflow(tmp_path_factory, openai_arrays):
    """A folder of checkpoints by TensorFlow, and .npz files of what it reads there."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    folder = tmp_path_factory.mktemp("tensorflow")
    np.savez(folder / "arrays.npz", **openai_arrays)
    write_bundle(folder / "ours" / "model.ckpt", openai_arrays, shards=2)
    script = folder / "with_tensorflow.py"
    script.write_text(WITH_TENSORFLOW, encoding="utf-8")
    done = subprocess.run([sys.executable, script, folder, ROOT / FOLDER],
                          capture_output=True, text=True, timeout=110)
    if done.returncode == 77:
        pytest.skip(f"TensorFlow cannot be imported: {done.stdout}")
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "output.txt").write_text(done.stdout, encoding="utf-8")
    return folder


@tensorflow
@pytest.mark.parametrize("name, shards", [
    ("saver", 1), ("sharded", 3), ("objects", 1), ("many", 1), ("ours", 2)])
def test_our_reader_equals_tensorflow_bit_for_bit(
        by_tensorflow, download, name, shards):
    prefix = by_tensorflow / name / "model.ckpt"
    assert len(list(prefix.parent.glob("*.data-*"))) == shards
    expected = dict(np.load(by_tensorflow / f"{name}.npz"))
    found = download.read_tf_checkpoint(prefix)
    assert len(expected) >= 28
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        assert found[key].shape == array.shape, key
        assert found[key].tobytes() == array.tobytes(), key


@tensorflow
def test_params_with_and_without_tensorflow_are_the_same(by_tensorflow, download):
    with_tensorflow = np.load(by_tensorflow / "params.npy", allow_pickle=True).item()
    prefix = by_tensorflow / "saver" / "model.ckpt"
    without = download.load_gpt2_params_from_tf_ckpt(prefix, SETTINGS)
    assert same_params(with_tensorflow, without)


@tensorflow
def test_damage_is_a_clear_error_with_tensorflow_too(by_tensorflow):
    cut, changed = (by_tensorflow / "output.txt").read_text(encoding="utf-8").splitlines()
    assert "data-00000-of-00001 is cut short; delete it and download it again" in cut
    assert "model.ckpt.data-* is damaged (" in changed
    assert "delete it and download it again" in changed


@tensorflow
def test_sliced_variables_are_refused_not_misread(by_tensorflow, download):
    with pytest.raises(ValueError, match="index has variables cut into slices; inst"):
        download.read_tf_checkpoint(by_tensorflow / "sliced" / "model.ckpt")


# --- damage ---------------------------------------------------------------------------

@pytest.fixture
def prefix(tmp_path, openai_arrays):
    """The prefix of a whole checkpoint in two shards."""
    write_bundle(tmp_path / "whole" / "model.ckpt", openai_arrays, shards=2)
    return tmp_path / "whole" / "model.ckpt"


def test_checksum_is_crc32c(download):
    # the check value of CRC-32C (RFC 3720): 0xe3069283, here rotated and shifted
    crc = (download._masked_crc32c(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (crc << 15 | crc >> 17) & 0xFFFFFFFF == 0xE3069283


def test_whole_checkpoint_reads_without_tensorflow(download, prefix, openai_arrays):
    found = download.read_tf_checkpoint(prefix)
    assert found.keys() == openai_arrays.keys()
    assert all(np.array_equal(found[key], openai_arrays[key]) for key in found)
    assert found["model/wte"].base is not None          # a view: nothing was copied


def test_writing_into_the_arrays_leaves_the_file_alone(download, prefix):
    before = [path.read_bytes() for path in sorted(prefix.parent.iterdir())]
    download.read_tf_checkpoint(prefix)["model/wte"][:] = 0
    assert before == [path.read_bytes() for path in sorted(prefix.parent.iterdir())]


def test_index_cut_anywhere_is_a_clear_error(download, prefix):
    index = prefix.with_name("model.ckpt.index")
    content = index.read_bytes()
    for length in [*range(0, len(content), 31), len(content) - 1]:
        index.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"ckpt\.index .*; delete it and download"):
            download.read_tf_checkpoint(prefix)


def test_changed_byte_of_the_index_is_noticed_or_harmless(
        download, prefix, openai_arrays):
    index = prefix.with_name("model.ckpt.index")
    content = index.read_bytes()
    noticed = 0
    places = [*range(0, len(content), 23), *range(len(content) - 48, len(content))]
    for i in places:
        changed = bytes([content[i] ^ 0x55])
        index.write_bytes(content[:i] + changed + content[i + 1:])
        try:
            found = download.read_tf_checkpoint(prefix)
        except ValueError as error:
            assert "model.ckpt.index " in str(error)
            noticed += 1
        else:        # the footer's spare bytes and the empty metaindex carry nothing
            assert all(np.array_equal(found[key], array)
                       for key, array in openai_arrays.items())
    assert noticed > len(places) - 48


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("left", [0, -1])
def test_cut_data_is_a_clear_error(download, prefix, shard, left):
    data = prefix.with_name(f"model.ckpt.data-0000{shard}-of-00002")
    data.write_bytes(data.read_bytes()[:left])
    with pytest.raises(ValueError, match=f"{data.name} is cut short; delete it and"):
        download.read_tf_checkpoint(prefix)


@pytest.mark.parametrize("name", ["model.ckpt.index", "model.ckpt.data-00001-of-00002"])
def test_missing_file_is_named(download, prefix, name):
    prefix.with_name(name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing; download"):
        download.read_tf_checkpoint(prefix)


def test_some_other_file_is_no_index(download, prefix):
    prefix.with_name("model.ckpt.index").write_text("<html>not found</html>" * 99,
                                                    encoding="utf-8")
    with pytest.raises(ValueError, match="not a checkpoint's index"):
        download.read_tf_checkpoint(prefix)


@pytest.mark.parametrize("oddity, expected", [
    ({"kind": 1}, r"is compressed \(type 1\); install tensorflow"),
    ({"big_endian": 1}, "big-endian numbers; install tensorflow"),
    ({"extra_fields": [(7, b"")]}, "cut into slices; install tensorflow"),
    ({"extra_fields": [(1, 8)]}, "data type 8; install tensorflow"),
    ({"extra_fields": [(5, 4)]}, r"4 bytes for .* of shape"),
])
def test_what_the_reader_cannot_read_it_refuses(download, prefix, openai_arrays, oddity,
                                                expected):
    write_bundle(prefix, openai_arrays, **oddity)
    with pytest.raises(ValueError, match=expected):
        download.read_tf_checkpoint(prefix)


@pytest.mark.parametrize("n_layer, expected", [(1, "more than the 1 blocks"),
                                               (3, "no 'model/h2/ln_1/g'")])
def test_number_of_blocks_must_be_that_of_the_settings(download, prefix, n_layer,
                                                       expected):
    with pytest.raises(ValueError, match=expected):
        download.load_gpt2_params_from_tf_ckpt(prefix, {"n_layer": n_layer})


# --- the mapping, proved by equal logits ----------------------------------------------

def logits_of(params):
    """Return the logits of our GPTModel with params for every token in a row."""
    generate = load_file(f"{FOLDER}/gpt_generate.py")
    model = generate.GPTModel({**OUR_CONFIG, "drop_rate": 0.1}).eval()
    generate.load_weights_into_gpt(model, params)
    with torch.no_grad():
        return model(IDS)


IDS = torch.arange(VOCAB - VOCAB % CONTEXT).view(-1, CONTEXT)


def expected_logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_logits_equal_transformers_through_tensorflows_format(
        download, hugging_face_model, tmp_path):
    write_bundle(tmp_path / "model.ckpt", to_openai(hugging_face_model))
    params = download.load_gpt2_params_from_tf_ckpt(tmp_path / "model.ckpt", SETTINGS)
    found = logits_of(params)
    torch.testing.assert_close(found, expected_logits(hugging_face_model),
                               atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_equal_transformers_through_safetensors(
        download, hugging_face_model, tmp_path, prefix, dtype):
    from copy import deepcopy

    from safetensors.torch import save_file

    model = deepcopy(hugging_face_model).to(dtype)
    state = {prefix + name: t.clone()
             for name, t in model.transformer.state_dict().items()}
    state["lm_head.weight"] = model.lm_head.weight.clone()
    for n in range(LAYERS):
        state[f"{prefix}h.{n}.attn.bias"] = torch.ones(1, 1, CONTEXT, CONTEXT)
        state[f"{prefix}h.{n}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(state, tmp_path / "model.safetensors")
    params = download.load_gpt2_params_from_safetensors(tmp_path / "model.safetensors")
    torch.testing.assert_close(logits_of(params), expected_logits(model.float()),
                               atol=1e-5, rtol=1e-5)


def test_safetensors_of_every_type_keep_their_numbers(download, tmp_path):
    from safetensors.torch import load_file as load_safetensors
    from safetensors.torch import save_file

    torch.manual_seed(3)
    numbers = torch.randn(3, 5) * 50
    tensors = {str(dtype): numbers.to(dtype) for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
        torch.int32, torch.int16, torch.int8, torch.bool)}
    tensors["empty"], tensors["scalar"] = torch.empty(0, 3), torch.tensor(7.5)
    save_file(tensors, tmp_path / "all.safetensors", metadata={"by": "test"})
    found = download.read_safetensors(tmp_path / "all.safetensors")
    expected = load_safetensors(tmp_path / "all.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        assert torch.equal(torch.tensor(found[name]), tensor), name
        assert found[name].shape == tensor.shape


def test_damaged_safetensors_is_a_clear_error(download, hugging_face_model, tmp_path):
    write_model_folder(tmp_path, hugging_face_model)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    for length in (0, 5, 8, 50, 2000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="model.safetensors .* download it again"):
            download.load_gpt2_params_from_safetensors(path)
    path.write_bytes(b"\x10" + bytes(7) + b"<html>not found</html>")
    with pytest.raises(ValueError, match="no safetensors file"):
        download.load_gpt2_params_from_safetensors(path)


@pytest.mark.parametrize("config, expected", [
    ({"activation_function": "relu"}, "activation_function is 'relu'"),
    ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings"),
    ({"model_type": "llama"}, "model_type"),
    ({"n_head": 4}, "heads"),
    ({"n_head": "5"}, "n_heads cannot be '5'"),
    ({"n_layer": 3}, "blocks"),
    ({"n_positions": 12}, "positions"),
    ({"vocab_size": 54}, "tokens"),
])
def test_folder_of_another_model_is_refused_not_misread(
        download, hugging_face_model, tmp_path, config, expected):
    write_model_folder(tmp_path, hugging_face_model, **config)
    with pytest.raises(ValueError, match=expected):
        download.load_model_folder(tmp_path)


# --- where the weights come from ------------------------------------------------------

@pytest.fixture
def mirror(tmp_path, monkeypatch, openai_arrays, hugging_face_model):
    """A mirror with OpenAI's and Hugging Face's files of SIZE."""
    mirror = tmp_path / "mirror"
    write_openai_folder(mirror / OPENAI_PATH, openai_arrays)
    write_model_folder(mirror / HUGGING_FACE_PATH, hugging_face_model)
    monkeypatch.setenv("LLM_DATA_MIRROR", str(mirror))
    return mirror


def bundled_folder(download, tmp_path):
    """Return where download looks for the course's model."""
    return tmp_path / download.BUNDLED_MODEL


def test_openai_then_hugging_face_then_the_course_then_none(
        download, mirror, tmp_path, requests_seen, capsys, hugging_face_model,
        openai_arrays):
    write_model_folder(bundled_folder(download, tmp_path), hugging_face_model)
    no_openai = "OpenAI's files: not reachable [not there]"       # in the mirror
    no_hugging_face = "Hugging Face's: not reachable [not there]"
    expected_lines = [
        "GPT-2 774M: OpenAI's files, from the mirror in LLM_DATA_MIRROR",
        f"GPT-2 774M: Hugging Face's, from the mirror in LLM_DATA_MIRROR ({no_openai})",
        "GPT-2 774M: the course's small model, gpt2-mini of 2 layers, emb_dim 15, "
        "context 11; texts and numbers differ from the book's "
        f"({no_openai}; {no_hugging_face})",
    ]
    gone = [mirror / OPENAI_PATH, mirror / HUGGING_FACE_PATH,
            bundled_folder(download, tmp_path)]
    for i, (line, folder) in enumerate(zip(expected_lines, gone, strict=True)):
        config = dict(BASE_CONFIG)
        params = download.load_pretrained(config, SIZE, f"models{i}")
        assert capsys.readouterr().out == line + "\n"
        assert config == {**OUR_CONFIG, "drop_rate": 0.25}
        wte = openai_arrays["model/wte"] if i == 0 \
            else hugging_face_model.transformer.wte.weight.detach().numpy()
        assert np.array_equal(params["wte"], wte)
        for path in folder.iterdir():
            path.unlink()

    config = dict(BASE_CONFIG)
    assert download.load_pretrained(config, SIZE, "models3") is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(
        f"GPT-2 774M could not be had ({no_openai}; {no_hugging_face}; ")
    assert "into models3/774M, or set LLM_DATA_MIRROR" in lines[0]
    assert config == BASE_CONFIG
    assert not (tmp_path / "models3").exists()


def test_gpt2_mini_by_name_asks_nobody_else(
        download, mirror, tmp_path, requests_seen, capsys, hugging_face_model):
    assert download.load_pretrained(dict(BASE_CONFIG), "gpt2-mini") is None
    line = capsys.readouterr().out
    assert line.startswith("gpt2-mini could not be had (the course's small model: not in")
    assert download.BUNDLED_MODEL in line and "LLM_DATA_MIRROR" not in line
    write_model_folder(bundled_folder(download, tmp_path), hugging_face_model)
    config = dict(BASE_CONFIG)
    params = download.load_pretrained(config, "gpt2-mini")
    assert np.array_equal(params["wte"],
                          hugging_face_model.transformer.wte.weight.detach().numpy())
    assert config == {**OUR_CONFIG, "drop_rate": 0.25}
    assert capsys.readouterr().out.startswith("gpt2-mini: the course's small model, ")
    assert requests_seen == []
    with pytest.raises(ValueError, match="Model size not in"):
        download.download_and_load_gpt2("gpt2-mini", "gpt2")      # OpenAI has none


def test_cached_files_need_no_network(download, mirror, monkeypatch, requests_seen,
                                      capsys):
    settings, params = download.download_and_load_gpt2(SIZE, "gpt2")
    monkeypatch.delenv("LLM_DATA_MIRROR")
    again, params_again = download.download_and_load_gpt2(SIZE, "gpt2")
    assert settings == again == SETTINGS
    assert same_params(params, params_again)
    assert requests_seen == []
    capsys.readouterr()
    assert download.load_pretrained(dict(BASE_CONFIG), SIZE) is not None
    assert capsys.readouterr().out == "GPT-2 774M: OpenAI's files, found here\n"


def test_weights_that_lie_here_go_before_a_download(
        download, mirror, tmp_path, capsys, hugging_face_model):
    folder = tmp_path / "gpt2" / "openai-community" / "gpt2-large"
    write_model_folder(folder, hugging_face_model)
    download.load_pretrained(dict(BASE_CONFIG), SIZE)
    assert capsys.readouterr().out == "GPT-2 774M: Hugging Face's, found here\n"
    assert not (tmp_path / "gpt2" / SIZE).exists()


def test_without_network_nothing_is_tried_twice(download, requests_seen):
    start = time.monotonic()
    for size in ("124M", "355M", "124M"):
        assert download.load_pretrained(dict(BASE_CONFIG), size) is None
    assert len(requests_seen) == 1
    assert time.monotonic() - start < 5


def test_damaged_file_is_named_though_another_place_helps(
        download, mirror, tmp_path, capsys):
    data = mirror / OPENAI_PATH / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    config = dict(BASE_CONFIG)
    assert download.load_pretrained(config, SIZE) is not None
    line, = capsys.readouterr().out.splitlines()
    assert line.startswith("GPT-2 774M: Hugging Face's, from the mirror")
    assert "is cut short; delete it and download it again" in line


def test_file_of_the_wrong_size_is_never_read(download, tmp_path, openai_arrays):
    write_openai_folder(tmp_path / "gpt2" / "124M", openai_arrays)
    with pytest.raises(ValueError, match="hparams.json has .* instead of 90; delete"):
        download.download_and_load_gpt2("124M", "gpt2")


def test_page_of_a_captive_portal_is_not_taken_for_weights(download, mirror):
    folder = mirror / OPENAI_PATH.replace(SIZE, "124M")
    folder.mkdir(parents=True)
    (folder / "hparams.json").write_text("<html>please log in</html>", encoding="utf-8")
    with pytest.raises(download.FetchError, match="hparams.json could not be had"):
        download.download_and_load_gpt2("124M", "gpt2")


@pytest.mark.parametrize("call", ["download_and_load_gpt2", "load_pretrained"])
def test_unknown_size_is_refused(download, call):
    arguments = ("125M", "gpt2") if call.startswith("down") else ({}, "125M", "gpt2")
    with pytest.raises(ValueError, match="Model size not in .*'124M', '355M'"):
        getattr(download, call)(*arguments)


@pytest.fixture
def server(tmp_path):
    """A web server of tmp_path/web that packs what it sends if the client agrees."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            path = tmp_path / "web" / self.path.lstrip("/")
            if not path.is_file():
                return self.send_error(404)
            content = path.read_bytes()
            self.send_response(200)
            if "gzip" in self.headers.get("Accept-Encoding", ""):
                content = gzip.compress(content)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    seen = []
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.seen = seen
    web.address = f"http://127.0.0.1:{web.server_port}/"
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield web
    web.shutdown()
    web.server_close()


def test_backup_address_helps_and_addresses_are_whole(
        download, monkeypatch, tmp_path, openai_arrays, server):
    write_openai_folder(tmp_path / "web" / "backup" / SIZE, openai_arrays)
    monkeypatch.setattr(download, "OPENAI", server.address + "first/")
    monkeypatch.setattr(download, "OPENAI_BACKUP", server.address + "backup/")
    settings, _ = download.download_and_load_gpt2(SIZE, tmp_path / "gpt2")
    assert settings == SETTINGS
    assert server.seen[:2] == [f"/first/{SIZE}/hparams.json",
                               f"/backup/{SIZE}/hparams.json"]
    # vocabulary and graph are of no use here
    assert {path.rpartition("/")[2] for path in server.seen} == {
        "hparams.json", "checkpoint", "model.ckpt.index",
        "model.ckpt.data-00000-of-00001"}


def test_addresses_are_those_of_the_publishers(download):
    assert download.OPENAI + "124M/checkpoint" == (
        "https://openaipublic.blob.core.windows.net/gpt-2/models/124M/checkpoint")
    assert download.OPENAI_BACKUP + "124M/checkpoint" == (
        "https://f001.backblazeb2.com/file/LLMs-from-scratch/gpt2/124M/checkpoint")


def test_packed_transfer_is_not_taken_for_a_broken_one(download, tmp_path, server):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "text.txt").write_text("the same words " * 999, encoding="utf-8")
    path = download.fetch("text.txt", download.Source(server.address + "text.txt"))
    assert path.read_text(encoding="utf-8") == "the same words " * 999


def test_original_beside_a_file_of_ones_own_is_found_again(download, tmp_path, server):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "text.txt").write_text("original", encoding="utf-8")
    (tmp_path / "text.txt").write_text("my own words", encoding="utf-8")
    source = download.Source(server.address + "text.txt", size=len("original"))
    for _ in range(2):
        assert download.fetch("text.txt", source).read_text(encoding="utf-8") == "original"
    assert len(server.seen) == 1
    assert (tmp_path / "text.txt").read_text(encoding="utf-8") == "my own words"
