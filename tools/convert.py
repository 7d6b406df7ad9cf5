#!/usr/bin/env python3
"""Turn a nanoGPT or nanoMoE checkpoint, ckpt.pt, into a folder nanomoe reads: model.safetensors and config.json.

    python3 tools/convert.py ckpt.pt OUT_DIR [--dtype f32|bf16|f16] [--tokenizer tokenizer.json]

Only weights and plain values are loaded: no code in the file is run, whatever it holds. Names keep nanoMoE's own form
without the prefix torch.compile adds; the copy of the tied embedding and causal masks are left out. All files appear
whole or not at all. Needs nothing but Python; a checkpoint is a zip of a pickle and of each tensor's bytes.
"""

import argparse
import array
import collections
import json
import math
import os
import pickle
import shutil
import struct
import sys
import zipfile
from pathlib import Path

# Bytes of an element by PyTorch's name of the type, and safetensors' names of the types nanomoe reads.
SIZES = {"Float": 4, "BFloat16": 2, "Half": 2, "Double": 8, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1,
         "Bool": 1}
STORED = {"Float": "F32", "BFloat16": "BF16", "Half": "F16"}
DTYPES = {"f32": "Float", "bf16": "BFloat16", "f16": "Half"}

# Elements converted at a time.
RUN = 1 << 20

# Fields of the configuration in the order they are written; the first five must be there.
REQUIRED = ["block_size", "vocab_size", "n_layer", "n_head", "n_embd"]
OPTIONAL = ["dropout", "bias", "n_exp", "top_k", "use_aux_loss", "use_router_z_loss", "use_noisy_top_k",
            "aux_loss_weight", "router_z_loss_weight", "train_capacity", "eval_capacity", "min_capacity", "stride",
            "use_switch_tfm_init", "switch_tfm_init_scale", "router_use_full_prec"]


class Refused(Exception):
    """What is wrong, in one line."""


class Tensor:
    """Where a tensor stands in the checkpoint; its bytes are read when they are asked for."""

    def __init__(self, storage: tuple, offset: int, shape: tuple, strides: tuple, *_):
        self.archive, self.dtype, self.path = storage
        self.offset, self.shape, self.strides = offset, list(shape), list(strides)

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def read(self) -> bytes:
        """The elements, row-major."""
        size = SIZES[self.dtype]
        data = self.archive.read(self.path)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides))
        if self.count and not 0 <= last < len(data) // size:
            raise Refused(f"{self.path} has {len(data)} bytes, too few for a tensor of {self.shape}")
        dense = [math.prod(self.shape[dim + 1:]) for dim in range(len(self.shape))]
        if all(n == 1 or own == wanted for n, own, wanted in zip(self.shape, self.strides, dense)):
            return data[self.offset * size:(self.offset + self.count) * size]
        places = [self.offset]
        for n, stride in zip(self.shape, self.strides):
            places = [place + index * stride for place in places for index in range(n)]
        return b"".join(data[place * size:(place + 1) * size] for place in places)


class WeightsOnly(pickle.Unpickler):
    """Reads tensors and plain values; the names of anything else are refused, so nothing of the file is ever called."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(archive.open(f"{root}/data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str):
        known = {("collections", "OrderedDict"): collections.OrderedDict, ("torch", "Size"): tuple,
                 ("torch._utils", "_rebuild_tensor_v2"): Tensor,
                 ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor}
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name.removesuffix("Storage") in SIZES:
            return name.removesuffix("Storage")
        raise Refused(
            f"holds {module}.{name}, which is not a tensor or a plain value and is not loaded, since loading it can run "
            "code; if you trust the file, save its 'model' and 'model_args' alone with torch.save")

    def persistent_load(self, reference):
        _, dtype, key, *_ = reference
        return self.archive, dtype, f"{self.root}/data/{key}"


def load(archive: zipfile.ZipFile) -> dict:
    """The checkpoint's dictionary."""
    pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused("not a PyTorch checkpoint: a zip without data.pkl")
    root = pickles[0].removesuffix("/data.pkl")
    if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
        raise Refused("was saved on a big-endian machine")
    checkpoint = WeightsOnly(archive, root).load()
    if not isinstance(checkpoint, dict):
        raise Refused(f"holds a {type(checkpoint).__name__}, expected a dictionary with 'model' and 'model_args'")
    for key in ("model", "model_args"):
        if not isinstance(checkpoint.get(key), dict):
            keys = ", ".join(sorted(map(str, checkpoint))[:8]) or "nothing"
            raise Refused(f"has no dictionary {key!r}, as nanoGPT and nanoMoE save it; found {keys}")
    return checkpoint


def read_config(model_args: dict, tensors: dict) -> dict:
    """config.json, from the arguments the model was built with."""
    missing = [key for key in REQUIRED if key not in model_args]
    if missing:
        raise Refused(f"model_args has no {missing[0]}")
    for key in REQUIRED + ["n_exp", "top_k", "stride"]:
        value = model_args.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Refused(f"model_args: {key} is {value!r}, expected a whole number of at least 1")
    # nanoGPT's first checkpoints do not say whether they have biases.
    bias = model_args.get("bias", "transformer.ln_f.bias" in tensors)
    given = {**model_args, "bias": bool(bias)}
    config = {"model_type": "nanomoe" if given.get("n_exp", 1) > 1 else "nanogpt"}
    config |= {key: given[key] for key in REQUIRED + OPTIONAL if given.get(key) is not None}
    return config


def strip_names(state: dict) -> dict:
    """The parameters by nanoMoE's names: no prefix of torch.compile, no masks."""
    tensors = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise Refused(f"{name} is a {type(tensor).__name__}, expected a tensor")
        short = name.removeprefix("_orig_mod.")
        if short in tensors:
            raise Refused(f"{name} and {short} are the same parameter")
        if not short.endswith((".attn.bias", ".attn.masked_bias")):
            tensors[short] = tensor
    return tensors


def expected_shapes(config: dict) -> dict[str, list[int]]:
    """Every parameter of a model of this configuration and its shape in the file."""
    layers, width, bias = config["n_layer"], config["n_embd"], config["bias"]
    experts, stride = config.get("n_exp", 1), config.get("stride", 2)
    shapes = {
        "transformer.wte.weight": [config["vocab_size"], width],
        "transformer.wpe.weight": [config["block_size"], width],
    }

    def linear(name: str, outputs: int, inputs: int):
        shapes[f"{name}.weight"] = [outputs, inputs]
        if bias:
            shapes[f"{name}.bias"] = [outputs]

    def norm(name: str):
        shapes[f"{name}.weight"] = [width]
        if bias:
            shapes[f"{name}.bias"] = [width]

    for layer in range(layers):
        block = f"transformer.h.{layer}"
        norm(f"{block}.ln_1")
        linear(f"{block}.attn.c_attn", 3 * width, width)
        linear(f"{block}.attn.c_proj", width, width)
        norm(f"{block}.ln_2")
        if experts > 1 and layer % stride == 0:
            shapes[f"{block}.mlp.router.w_g.weight"] = [experts, width]
            if config.get("use_noisy_top_k"):
                shapes[f"{block}.mlp.router.w_noise.weight"] = [experts, width]
            # Input-major, unlike a linear layer.
            shapes[f"{block}.mlp.experts.c_fc"] = [experts, width, 4 * width]
            shapes[f"{block}.mlp.experts.c_proj"] = [experts, 4 * width, width]
            if bias:
                shapes[f"{block}.mlp.experts.fc_bias"] = [experts, 1, 4 * width]
                shapes[f"{block}.mlp.experts.proj_bias"] = [experts, 1, width]
        else:
            linear(f"{block}.mlp.c_fc", 4 * width, width)
            linear(f"{block}.mlp.c_proj", width, 4 * width)
    norm("transformer.ln_f")
    return shapes


def check(tensors: dict, shapes: dict[str, list[int]]):
    """Every parameter is there with its shape, and nothing else is. Drops the copy of the tied embedding."""
    for name, shape in shapes.items():
        if name not in tensors:
            raise Refused(f"{name} is missing, expected it with shape {shape}")
        if tensors[name].shape != shape:
            raise Refused(f"{name} has shape {tensors[name].shape}, expected {shape}")
        if tensors[name].dtype not in ("Float", "BFloat16", "Half", "Double"):
            raise Refused(f"{name} has dtype {tensors[name].dtype}, expected a float type")
    head = tensors.pop("lm_head.weight", None)
    embedding = tensors["transformer.wte.weight"]
    if head is not None and (head.shape != embedding.shape or head.read() != embedding.read()):
        raise Refused("lm_head.weight differs from transformer.wte.weight, but the head is tied to it")
    extra = sorted(tensors.keys() - shapes.keys())
    if extra:
        raise Refused(f"{extra[0]} is not part of a model of this configuration")


def floats(data: bytes, dtype: str) -> array.array:
    """The numbers in little-endian bytes, exactly."""
    if dtype == "BFloat16":
        data = array.array("I", [bits << 16 for bits in array.array("H", data)]).tobytes()
    code = {"Half": "e", "Double": "d"}.get(dtype, "f")
    return array.array("d", struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data))


def rounded(numbers: array.array, dtype: str, name: str) -> bytes:
    """The numbers as little-endian bytes of another type, to nearest even."""
    code = "e" if dtype == "Half" else "f"
    try:
        data = struct.pack(f"<{len(numbers)}{code}", *numbers)
        if dtype == "BFloat16":
            words = array.array("I", data)
            # A NaN stays one; what is carried into the exponent of the largest becomes infinite, and is found below.
            halves = [(bits >> 16) | 64 if bits & 0x7FFFFFFF > 0x7F800000 else
                      (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 for bits in words]
            data = array.array("H", halves).tobytes()
        lost = [number for number, new in zip(numbers, floats(data, dtype)) if math.isinf(new) > math.isinf(number)]
    except OverflowError:
        largest = 65504.0 if dtype == "Half" else 3.4028234663852886e38
        lost = [number for number in numbers if largest < abs(number) < math.inf]
    if lost:
        short = next(short for short, long in DTYPES.items() if long == dtype)
        raise Refused(f"{name} holds {lost[0]:g}, which {short} cannot hold")
    return data


def cast(name: str, tensor: Tensor, dtype: str) -> bytes:
    """The tensor's elements as `dtype`."""
    data, size = tensor.read(), SIZES[tensor.dtype]
    if tensor.dtype == dtype:
        return data
    runs = range(0, len(data), RUN * size)
    return b"".join(rounded(floats(data[at:at + RUN * size], tensor.dtype), dtype, name) for at in runs)


def save_safetensors(tensors: dict, dtype: str | None, path: Path) -> None:
    """Writes the tensors as `dtype`, or as they are."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    types = {name: DTYPES[dtype] if dtype else tensor.dtype for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if types[name] not in STORED:
            raise Refused(f"{name} has dtype {types[name]}, which nanomoe does not read: say --dtype f32, bf16 or f16")
        begin, end = end, end + tensor.count * SIZES[types[name]]
        header[name] = {"dtype": STORED[types[name]], "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            file.write(cast(name, tensor, types[name]))


def write(out: Path, files: dict) -> None:
    """Writes every file (a name, and what writes it to a path) beside its place, then moves all into place."""
    out.mkdir(parents=True, exist_ok=True)
    partial = {name: out / f"{name}.{os.getpid()}.partial" for name in files}
    try:
        for name, save in files.items():
            save(partial[name])
        for name in files:
            os.replace(partial[name], out / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def convert(source: Path, out: Path, dtype: str | None, tokenizer: Path | None) -> str:
    """Converts, and says in a line what was written."""
    for path in filter(None, [source, tokenizer]):
        if not path.is_file():
            raise Refused(f"{path}: {'a folder, expected a file' if path.is_dir() else 'no such file'}")
    broken = (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, LookupError, TypeError, ValueError, AttributeError,
              struct.error)
    try:
        with zipfile.ZipFile(source) as archive:
            checkpoint = load(archive)
            tensors = strip_names(checkpoint["model"])
            config = read_config(checkpoint["model_args"], tensors)
            check(tensors, expected_shapes(config))
            files = {
                "model.safetensors": lambda path: save_safetensors(tensors, dtype, path),
                "config.json": lambda path: path.write_text(json.dumps(config, indent=1) + "\n"),
            }
            if tokenizer:
                files["tokenizer.json"] = lambda path: shutil.copyfile(tokenizer, path)
            write(out, files)
    except Refused as error:
        raise Refused(f"{source}: {error}") from error
    except broken as error:
        raise Refused(f"{source}: not a PyTorch checkpoint, or a truncated one, or from before PyTorch 1.6") from error
    numbers = sum(tensor.count for tensor in tensors.values())
    return f"{out}: {', '.join(files)}; {len(tensors)} tensors, {numbers:,} parameters"


def main() -> int:
    """Exit codes: 0 done, 1 refused, 2 used wrongly."""
    about, _, _ = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=about, epilog=__doc__.rpartition("\n\n")[2])
    parser.add_argument("checkpoint", type=Path, metavar="CKPT.pt", help="what nanoGPT or nanoMoE saved")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder to write to; made if it is not there")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the weights written [default: as in the checkpoint]")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json to put beside them")
    args = parser.parse_args()
    try:
        print(convert(args.checkpoint, args.out, args.dtype, args.tokenizer))
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or args.out}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
