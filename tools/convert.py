#!/usr/bin/env python3
"""Turn a nanoGPT or nanoMoE checkpoint, ckpt.pt, into a folder nanomoe reads: model.safetensors and config.json.

    python3 tools/convert.py ckpt.pt OUT_DIR [--dtype f32|bf16|f16] [--tokenizer tokenizer.json]

Only weights and plain values are loaded (torch.load with weights_only=True): no code in the file is run. Names keep
nanoMoE's own form without the prefix torch.compile adds; the copy of the tied embedding and causal masks are left
out. Both files appear whole or not at all. Needs torch and safetensors.
"""

import argparse
import json
import os
import pickle
import re
import shutil
import sys
import zipfile
from pathlib import Path

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}

# Fields of the configuration in the order they are written; the first five must be there.
REQUIRED = ["block_size", "vocab_size", "n_layer", "n_head", "n_embd"]
OPTIONAL = ["dropout", "bias", "n_exp", "top_k", "use_aux_loss", "use_router_z_loss", "use_noisy_top_k",
            "aux_loss_weight", "router_z_loss_weight", "train_capacity", "eval_capacity", "min_capacity", "stride",
            "use_switch_tfm_init", "switch_tfm_init_scale", "router_use_full_prec"]


class Refused(Exception):
    """What is wrong, in one line."""


def load(path: Path) -> dict:
    """The checkpoint's dictionary, with every tensor on the CPU."""
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise Refused("not a PyTorch checkpoint") from error
        raise Refused(
            f"holds {found[1]}, which is not a tensor or a plain value and is not loaded, since loading it can run "
            "code; if you trust the file, save its 'model' and 'model_args' alone with torch.save"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise Refused("not a PyTorch checkpoint, or a truncated one") from error
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
    import torch

    tensors = {}
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
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
    import torch

    for name, shape in shapes.items():
        if name not in tensors:
            raise Refused(f"{name} is missing, expected it with shape {shape}")
        if list(tensors[name].shape) != shape:
            raise Refused(f"{name} has shape {list(tensors[name].shape)}, expected {shape}")
        if not tensors[name].is_floating_point():
            raise Refused(f"{name} has dtype {tensors[name].dtype}, expected a float type")
    head = tensors.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, tensors["transformer.wte.weight"]):
        raise Refused("lm_head.weight differs from transformer.wte.weight, but the head is tied to it")
    extra = sorted(tensors.keys() - shapes.keys())
    if extra:
        raise Refused(f"{extra[0]} is not part of a model of this configuration")


def cast(tensors: dict, dtype: str | None) -> dict:
    """Dense tensors of their own, as `dtype`, or as they were."""
    import torch

    known = {getattr(torch, name): short for short, name in DTYPES.items()}
    result = {}
    for name, tensor in tensors.items():
        target = getattr(torch, DTYPES[dtype]) if dtype else tensor.dtype
        if target not in known:
            raise Refused(f"{name} has dtype {target}, which nanomoe does not read: say --dtype f32, bf16 or f16")
        result[name] = tensor.to(target).contiguous().clone()
        lost = tensor.isfinite() & ~result[name].isfinite()
        if lost.any():
            raise Refused(f"{name} holds {tensor[lost][0].item():g}, which {known[target]} cannot hold")
    return result


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
    try:
        import torch  # noqa: F401
        from safetensors.torch import save_file
    except ImportError as error:
        raise Refused(f"needs the Python package {error.name}: pip install torch safetensors") from error
    try:
        checkpoint = load(source)
        tensors = strip_names(checkpoint["model"])
        config = read_config(checkpoint["model_args"], tensors)
        check(tensors, expected_shapes(config))
        tensors = cast(tensors, dtype)
    except Refused as error:
        raise Refused(f"{source}: {error}") from error

    files = {
        "model.safetensors": lambda path: save_file(tensors, path, metadata={"format": "pt"}),
        "config.json": lambda path: path.write_text(json.dumps(config, indent=1) + "\n"),
    }
    if tokenizer:
        files["tokenizer.json"] = lambda path: shutil.copyfile(tokenizer, path)
    write(out, files)
    numbers = sum(tensor.numel() for tensor in tensors.values())
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
