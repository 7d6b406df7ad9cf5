#!/usr/bin/env python3
"""Train a nanoMoE on a folder of text, from scratch, on a GPU or a CPU, and write a folder nanomoe reads.

    python3 tools/train.py TEXT_DIR OUT_DIR [--held-out FILE] [--steps N] [--layers N] [--width N] ...

Every .txt file below TEXT_DIR is a document; one of them is held out and scored at the end. OUT_DIR gets config.json,
model.safetensors (bf16), tokenizer.json (a byte-level BPE of the training text; id 0 ends a document) and
training.json. Routing drops nothing, in training and after. Needs torch, tokenizers and safetensors.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F

END_OF_TEXT = "<|endoftext|>"


class Attention(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        width = config["n_embd"]
        self.heads, self.dropout = config["n_head"], config["dropout"]
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)

    def forward(self, x):  # [batch, seq, width]
        batch, seq, width = x.shape
        parts = self.c_attn(x).split(width, dim=2)
        q, k, v = (part.view(batch, seq, self.heads, -1).transpose(1, 2) for part in parts)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.c_proj(out.transpose(1, 2).reshape(batch, seq, width))


class Mlp(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        width = config["n_embd"]
        self.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.c_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x))), 0.0


class Router(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.w_g = nn.Linear(config["n_embd"], config["n_exp"], bias=False)


class Experts(nn.Module):
    """Matrices of all experts, input-major, unlike a linear layer's."""

    def __init__(self, config: dict):
        super().__init__()
        experts, width = config["n_exp"], config["n_embd"]
        self.c_fc = nn.Parameter(torch.empty(experts, width, 4 * width))
        self.c_proj = nn.Parameter(torch.empty(experts, 4 * width, width))


class Moe(nn.Module):
    """Top-k routing, softmax over the chosen logits, no expert ever full."""

    def __init__(self, config: dict):
        super().__init__()
        self.config, self.router, self.experts = config, Router(config), Experts(config)

    def forward(self, x):
        config, tokens = self.config, x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(tokens.float(), self.router.w_g.weight.float())
        top, ids = logits.topk(config["top_k"])  # [tokens, k]
        weights = top.softmax(dim=1)
        out = torch.zeros_like(tokens)
        for expert in range(config["n_exp"]):
            rows, choice = torch.where(ids == expert)
            hidden = F.gelu(tokens[rows] @ self.experts.c_fc[expert])
            update = (hidden @ self.experts.c_proj[expert]) * weights[rows, choice, None]
            out = out.index_add(0, rows, update.to(out.dtype))
        # An expert's share of the assignments times the share of probability it got, k when balanced.
        share = F.one_hot(ids, config["n_exp"]).float().sum(dim=1).mean(dim=0)
        auxiliary = config["n_exp"] * (share * logits.softmax(dim=1).mean(dim=0)).sum()
        z = logits.logsumexp(dim=1).square().mean()
        loss = config["aux_loss_weight"] * auxiliary + config["router_z_loss_weight"] * z
        return out.view_as(x), loss


class Block(nn.Module):
    def __init__(self, config: dict, layer: int):
        super().__init__()
        has_experts = config["n_exp"] > 1 and layer % config["stride"] == 0
        self.ln_1 = nn.LayerNorm(config["n_embd"], bias=False)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config["n_embd"], bias=False)
        self.mlp = Moe(config) if has_experts else Mlp(config)
        self.dropout = nn.Dropout(config["dropout"])

    def forward(self, x):
        x = x + self.dropout(self.attn(self.ln_1(x)))
        update, loss = self.mlp(self.ln_2(x))
        return x + self.dropout(update), loss


class Model(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        width, layers = config["n_embd"], config["n_layer"]
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config["vocab_size"], width),
            "wpe": nn.Embedding(config["block_size"], width),
            "drop": nn.Dropout(config["dropout"]),
            "h": nn.ModuleList(Block(config, layer) for layer in range(layers)),
            "ln_f": nn.LayerNorm(width, bias=False),
        })
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                # What is added to the residual stream shrinks with the number of additions.
                std = 0.02 / math.sqrt(2 * layers) if "c_proj" in name else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(self, ids, targets):
        """The cross-entropy of each target, `[batch * seq]`, and what the routers add to the loss."""
        parts = self.transformer
        x = parts["drop"](parts["wte"](ids) + parts["wpe"](torch.arange(ids.shape[1], device=ids.device)))
        routers = 0.0
        for block in parts["h"]:
            x, loss = block(x)
            routers = routers + loss
        logits = F.linear(parts["ln_f"](x), parts["wte"].weight)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none"), routers


def read_texts(folder: Path, held_out: str | None) -> tuple[list[str], str, str]:
    """The documents to train on, and the one held out with its name: the one asked for, else the last."""
    paths = sorted(folder.rglob("*.txt"))
    if held_out:
        chosen = [path for path in paths if path.name == held_out]
        if len(chosen) != 1:
            sys.exit(f"error: {folder}: {len(chosen)} files are called {held_out}, expected one")
    chosen = chosen[0] if held_out else (paths or [None])[-1]
    if len(paths) < 2:
        sys.exit(f"error: {folder}: {len(paths)} .txt files, expected one to hold out and others to train on")
    return [path.read_text() for path in paths if path != chosen], chosen.read_text(), chosen.stem


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@torch.no_grad()
def held_out_loss(model: Model, ids: torch.Tensor, block_size: int) -> float:
    """Nats a token over windows that follow each other, each target scored once."""
    model.eval()
    total = 0.0
    for begin in range(0, len(ids) - 1, block_size):
        end = min(begin + block_size, len(ids) - 1)
        losses, _ = model(ids[None, begin:end], ids[None, begin + 1:end + 1])
        total += losses.double().sum().item()
    return total / (len(ids) - 1)


def train(model: Model, ids: torch.Tensor, args: argparse.Namespace) -> None:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95))
    warmup = max(1, args.steps // 50)
    started = time.time()
    model.train()
    for step in range(args.steps):
        # Up in a line, down in half a cosine to a tenth.
        rate = (step + 1) / warmup if step < warmup else \
            0.55 + 0.45 * math.cos(math.pi * (step - warmup) / max(1, args.steps - warmup))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        begins = torch.randint(len(ids) - args.context, (args.batch,)).tolist()
        batch = torch.stack([ids[begin:begin + args.context + 1] for begin in begins])
        with torch.autocast(ids.device.type, dtype=torch.bfloat16):
            losses, routers = model(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad()
        (losses.mean() + routers).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step + 1 == args.steps:
            loss, seconds = losses.mean().item(), time.time() - started
            print(f"step {step + 1} of {args.steps}: {loss:.4f} nats a token, {seconds:.0f} s", file=sys.stderr)


def main() -> None:
    about, _, _ = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("text", type=Path, metavar="TEXT_DIR", help="folder with .txt files")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder to write to; made if it is not there")
    parser.add_argument("--held-out", metavar="FILE", help="name of the file to score, not to train on; else the last")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=1337)
    for name, default in [("steps", 8000), ("batch", 16), ("context", 256), ("vocab", 4096), ("layers", 4),
                          ("heads", 4), ("width", 256), ("experts", 8), ("top-k", 2)]:
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    texts, held_out, held_out_name = read_texts(args.text, args.held_out)
    tokenizer = train_tokenizer(texts, args.vocab)
    end = tokenizer.token_to_id(END_OF_TEXT)
    ids = [id for text in texts for id in tokenizer.encode(text).ids + [end]]
    ids = torch.tensor(ids, device=args.device)
    scored = torch.tensor(tokenizer.encode(held_out).ids, device=args.device)
    if len(ids) <= args.context or len(scored) < 2:
        sys.exit(f"error: {args.text}: {len(ids)} tokens to train on and {len(scored)} held out are too few")
    config = {
        "model_type": "nanomoe" if args.experts > 1 else "nanogpt", "block_size": args.context,
        "vocab_size": tokenizer.get_vocab_size(), "n_layer": args.layers, "n_head": args.heads,
        "n_embd": args.width, "dropout": args.dropout, "bias": False, "n_exp": args.experts,
        "top_k": args.top_k, "use_aux_loss": True, "use_router_z_loss": True, "use_noisy_top_k": False,
        "aux_loss_weight": 0.01, "router_z_loss_weight": 0.001, "min_capacity": 4, "stride": 2,
        "router_use_full_prec": True,
        # From E / k on no expert is ever full.
        "train_capacity": args.experts / args.top_k, "eval_capacity": args.experts / args.top_k,
    }
    model = Model(config).to(args.device)
    train(model, ids, args)

    in_f32 = held_out_loss(model, scored, args.context)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    in_bf16 = held_out_loss(model, scored, args.context)
    num_bytes = len(held_out.encode())
    training = {
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "steps": args.steps,
        "training_tokens": args.steps * args.batch * args.context,
        "corpus_tokens": len(ids),
        "held_out": held_out_name,
        "held_out_tokens_scored": len(scored) - 1,
        "context": f"non-overlapping windows of {args.context} ids, each target scored once",
        "loss_nats_per_token_f32": in_f32,
        "loss_nats_per_token_bf16_weights": in_bf16,
        "bits_per_byte_bf16_weights": in_bf16 * (len(scored) - 1) / math.log(2) / num_bytes,
        "optimizer": f"AdamW lr {args.lr:g} cosine, betas 0.9/0.95, weight decay 0.1, dropout {args.dropout:g}, "
                     f"batch {args.batch} x {args.context}, bf16 autocast, dropless routing, auxiliary loss 0.01 "
                     "and z loss 0.001",
    }
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()},
              args.out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(args.out / "tokenizer.json"))
    for name, value in [("config.json", config), ("training.json", training)]:
        (args.out / name).write_text(json.dumps(value, indent=1) + "\n")
    print(f"{args.out}: {in_bf16:.4f} nats a token on {held_out_name}")


if __name__ == "__main__":
    main()
