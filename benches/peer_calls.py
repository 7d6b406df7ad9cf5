"""What PyTorch is asked for the work of `nanomoe bench`: the calls, on random bf16 data of one case."""

import math

SPREAD = ("", "zipf", "one", "empty")

# For each operation: (name, call, variants it is for; None for all).
PEERS = {
    "gemm": [
        ("cublas", "F.linear(x, w, b) [+ residual], preferred_blas_library('cublas')", ("", "bias", "residual")),
        ("cublaslt", "F.linear(x, w, b) [+ residual], preferred_blas_library('cublaslt')", ("", "bias", "residual")),
        ("max-autotune", "torch.compile(F.linear [+ residual], mode='max-autotune-no-cudagraphs')",
         ("", "bias", "residual")),
        ("addmm_activation", "torch._addmm_activation(b, x, w.t(), use_gelu=True)", ("gelu_tanh",)),
        ("compile", "torch.compile(F.gelu(F.linear(x, w, b)), mode='max-autotune-no-cudagraphs')",
         ("gelu_tanh", "gelu_erf")),
        ("eager", "F.gelu(F.linear(x, w, b))", ("gelu_tanh", "gelu_erf")),
    ],
    "mlp": [("compile", "torch.compile(x + F.linear(F.gelu(F.linear(x, w, b)), v))", None)],
    "attention": [
        ("cudnn", "sdpa_kernel(CUDNN_ATTENTION): F.scaled_dot_product_attention(q, k, v, is_causal=True)", None),
        ("fa2", "sdpa_kernel(FLASH_ATTENTION): F.scaled_dot_product_attention(q, k, v, is_causal=True)", None),
        ("flex", "torch.compile(flex_attention)(q, k, v, block_mask=causal)", None),
    ],
    "layer_norm": [
        ("compile", "torch.compile(F.layer_norm(x [+ delta]), mode='max-autotune-no-cudagraphs')", None),
        ("eager", "F.layer_norm(x [+ delta])", None),
    ],
    "embedding": [("compile", "torch.compile(F.embedding(ids, tokens) + positions)", None)],
    "router_logits": [("linear", "F.linear(x.float(), w), w in f32", None)],
    "topk_gating": [
        ("eager", "torch.topk(torch.softmax(logits, -1), k)", None),
        ("compile", "torch.compile of it", None),
    ],
    "moe_dispatch": [("argsort", "torch.argsort(ids.flatten(), stable=True), bincount, cumsum", None)],
    "moe_gemm": [
        ("grouped_mm", "torch._grouped_mm(x, w, offs=offs, out_dtype=torch.bfloat16)", SPREAD),
        ("mm", "torch.mm(x, w.t()), as many operations with one weight", SPREAD),
    ],
    "moe_combine": [("compile", "torch.compile((rows[slots] * weights).sum(1))", None)],
    "moe_layer": [
        ("grouped_mm", "torch.compile(router, topk, softmax, argsort, 2 x torch._grouped_mm, gelu, index_add_)", SPREAD),
        ("transformers", "MixtralSparseMoeBlock, experts_implementation grouped_mm (T <= 64: batched_mm under "
         "reduce-overhead), 2/3 of the width (it is gated)", ("",)),
    ],
    "lm_head": [
        ("mm+argmax", "torch.mm(x, w.t()).argmax(-1)", ("argmax",)),
        ("compile", "torch.compile(F.cross_entropy((x @ w.t()).float(), targets, reduction='none'))",
         ("cross_entropy",)),
        ("mm", "torch.mm(x, w.t())", None),
    ],
    "sampling": [
        ("eager", "torch.multinomial(torch.softmax(logits / 0.8, -1), 1), top-k 200 by torch.topk, top-p 0.9 by torch.sort",
         None),
        ("compile", "torch.compile of it", None),
    ],
    "forward": [
        ("max-autotune", "nanoGPT's forward with all logits, torch.compile(mode='max-autotune')", ("",)),
        ("reduce-overhead", "one token with a static cache, torch.compile(mode='reduce-overhead', fullgraph=True)",
         ("", "mixtral")),
    ],
}


def calls_of(case):
    """(name, call) of the peers of a case."""
    calls = [(name, call) for name, call, variants in PEERS.get(case["op"], ())
             if variants is None or case["variant"] in variants]
    if case["op"] == "forward":
        is_decode = case["dims"][1] == 1
        calls = [(name, call) for name, call in calls if (name == "reduce-overhead") == is_decode]
    return calls


class Calls:
    """Makes the calls: a method an operation, which takes (name, variant, *sizes) and gives a function to time."""

    def __init__(self, torch, device="cuda"):
        self.torch, self.F, self.device = torch, torch.nn.functional, device

    def random(self, *shape, scale=1.0):
        return (self.torch.randn(*shape, device=self.device) * scale).bfloat16()

    def compiled(self, function, mode="max-autotune-no-cudagraphs", **options):
        self.torch._dynamo.reset()
        if self.device == "cpu":
            return self.torch.compile(function, backend="eager", dynamic=False, **options)
        return self.torch.compile(function, mode=mode, dynamic=False, **options)

    def gemm(self, name, variant, m, n, k):
        torch, F = self.torch, self.F
        x, w = self.random(m, k), self.random(n, k, scale=k**-0.5)
        bias = self.random(n) if variant else None
        residual = self.random(m, n) if variant == "residual" else None
        approximate = "tanh" if variant == "gelu_tanh" else "none"

        def linear():
            out = F.linear(x, w, bias)
            if residual is not None:
                out = out + residual
            return F.gelu(out, approximate=approximate) if variant.startswith("gelu") else out

        if name in ("cublas", "cublaslt"):
            def chosen():
                torch.backends.cuda.preferred_blas_library(name)
                return linear()
            return chosen
        if name == "addmm_activation":
            return lambda: torch._addmm_activation(bias, x, w.t(), use_gelu=True)
        return self.compiled(linear) if name in ("compile", "max-autotune") else linear

    def mlp(self, _name, variant, tokens, width, inner):
        F = self.F
        x, up, bias = self.random(tokens, width), self.random(inner, width, scale=width**-0.5), self.random(inner)
        down, residual = self.random(width, inner, scale=inner**-0.5), self.random(tokens, width)
        approximate = "tanh" if variant == "gelu_tanh" else "none"
        return self.compiled(lambda: residual + F.linear(F.gelu(F.linear(x, up, bias), approximate=approximate), down))

    def attention(self, name, _variant, batch, seq, kv, heads, kv_heads, head_dim):
        from torch.nn.attention import SDPBackend, flex_attention, sdpa_kernel

        def heads_first(length, count):
            return self.random(batch, length, count, head_dim).transpose(1, 2)

        q, k, v = heads_first(seq, heads), heads_first(kv, kv_heads), heads_first(kv, kv_heads)
        grouped = heads != kv_heads
        # A single query at the end of its cache sees every key.
        if seq not in (1, kv):
            raise ValueError("PyTorch's causal mask is aligned to the first key")
        if name == "flex":
            mask = flex_attention.create_block_mask(
                lambda _batch, _head, query, key: query >= key, None, None, seq, kv,
                device=self.device) if seq > 1 else None
            flex = self.compiled(flex_attention.flex_attention)
            return lambda: flex(q, k, v, block_mask=mask, enable_gqa=grouped)
        backend = SDPBackend.CUDNN_ATTENTION if name == "cudnn" else SDPBackend.FLASH_ATTENTION

        def attend():
            with sdpa_kernel(backend):
                return self.F.scaled_dot_product_attention(q, k, v, is_causal=seq > 1, enable_gqa=grouped)
        return attend

    def layer_norm(self, name, variant, tokens, width):
        F = self.F
        x, gamma, beta = self.random(tokens, width), self.random(width), self.random(width)
        delta = self.random(tokens, width) if variant == "residual" else None

        def norm():
            if delta is None:
                return F.layer_norm(x, (width,), gamma, beta)
            total = x + delta
            return total, F.layer_norm(total, (width,), gamma, beta)
        return self.compiled(norm) if name == "compile" else norm

    def embedding(self, _name, _variant, batch, seq, width, vocabulary):
        ids = self.torch.randint(0, vocabulary, (batch, seq), device=self.device)
        tokens, positions = self.random(vocabulary, width), self.random(seq, width)
        return self.compiled(lambda: self.F.embedding(ids, tokens) + positions)

    def router_logits(self, _name, _variant, tokens, width, experts):
        x, w = self.random(tokens, width), self.torch.randn(experts, width, device=self.device)
        return lambda: self.F.linear(x.float(), w)

    def topk_gating(self, name, _variant, tokens, experts, k):
        torch = self.torch
        logits = torch.randn(tokens, experts, device=self.device)

        def gate():
            return torch.topk(torch.softmax(logits, -1), k)
        return self.compiled(gate) if name == "compile" else gate

    def ids(self, variant, tokens, experts, k):
        """Router logits of a routing, and the experts chosen."""
        torch = self.torch
        weight = torch.zeros(experts, device=self.device)
        if variant in ("zipf", "drop1.25", "drop2"):
            weight = -torch.arange(1, experts + 1, device=self.device).float().log()
        if variant == "one":
            weight[0] = 100.0
        if variant == "empty":
            weight[experts // 2:] = -100.0
        uniform = torch.rand(tokens, experts, device=self.device).clamp(1e-7, 1 - 1e-7)
        logits = weight - torch.log(-torch.log(uniform))
        return logits, torch.topk(logits, k).indices

    def moe_dispatch(self, _name, variant, tokens, experts, k):
        torch = self.torch
        ids = self.ids(variant, tokens, experts, k)[1].flatten()

        def dispatch():
            order = torch.argsort(ids, stable=True)
            return order, torch.argsort(order), torch.bincount(ids, minlength=experts).cumsum(0)
        return dispatch

    def moe_gemm(self, name, variant, tokens, hidden, inner, experts, k):
        torch = self.torch
        x = self.random(tokens * k, hidden)
        if name == "mm":
            one = self.random(inner, hidden, scale=hidden**-0.5)
            return lambda: torch.mm(x, one.t())
        ids = self.ids(variant, tokens, experts, k)[1].flatten()
        offsets = torch.bincount(ids, minlength=experts).cumsum(0).to(torch.int32)
        w = self.random(experts, inner, hidden, scale=hidden**-0.5)
        return lambda: torch._grouped_mm(x, w.transpose(-2, -1), offs=offsets, out_dtype=torch.bfloat16)

    def moe_combine(self, _name, _variant, tokens, hidden, k):
        torch = self.torch
        rows, weights = self.random(tokens * k, hidden), torch.rand(tokens, k, 1, device=self.device)
        slots = torch.randperm(tokens * k, device=self.device).view(tokens, k)
        return self.compiled(lambda: (rows[slots] * weights).sum(1).bfloat16())

    def moe_layer(self, name, variant, tokens, hidden, inner, experts, k):
        torch, F = self.torch, self.F
        x = self.random(tokens, hidden)
        if name == "transformers":
            return self.mixtral_block(x, hidden, inner, experts, k)
        router = torch.randn(experts, hidden, device=self.device) * hidden**-0.5
        up = self.random(experts, inner, hidden, scale=hidden**-0.5)
        down = self.random(experts, hidden, inner, scale=inner**-0.5)
        # As with ours: the router's product is computed, the choice is made from logits of the routing measured.
        logits = self.ids(variant, tokens, experts, k)[0]

        def layer():
            routed = F.linear(x.float(), router)
            chosen, ids = torch.topk(logits, k)
            weights, ids = torch.softmax(chosen, -1).flatten(), ids.flatten()
            order = torch.argsort(ids, stable=True)
            token = order // k
            experts_of_rows = ids[order]
            offsets = torch.searchsorted(experts_of_rows, torch.arange(experts, device=self.device), right=True)
            offsets = offsets.to(torch.int32)
            rows = torch._grouped_mm(x[token], up.transpose(-2, -1), offs=offsets, out_dtype=torch.bfloat16)
            rows = torch._grouped_mm(F.gelu(rows), down.transpose(-2, -1), offs=offsets, out_dtype=torch.bfloat16)
            out = torch.zeros(tokens, hidden, device=self.device, dtype=torch.float32)
            return out.index_add_(0, token, rows * weights[order, None]).bfloat16(), routed
        return self.compiled(layer)

    def mixtral_config(self, hidden, inner, experts, k, few_tokens, **sizes):
        from transformers import MixtralConfig

        config = MixtralConfig(hidden_size=hidden, intermediate_size=inner, num_local_experts=experts,
                               num_experts_per_tok=k, **sizes)
        config._experts_implementation = "batched_mm" if few_tokens else "grouped_mm"
        return config

    def filled(self, make):
        """A module of random bf16 weights."""
        torch = self.torch
        with torch.device(self.device):
            torch.set_default_dtype(torch.bfloat16)
            try:
                module = make().eval()
            finally:
                torch.set_default_dtype(torch.float32)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(0, 0.02)
        return module

    def mixtral_block(self, x, hidden, inner, experts, k):
        from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

        few = x.shape[0] <= 64
        # It multiplies three matrices, we two: at 2/3 of the width, rounded down, it has no more to do than we.
        config = self.mixtral_config(hidden, max(2 * inner // 3 // 64 * 64, 64), experts, k, few)
        block = self.filled(lambda: MixtralSparseMoeBlock(config))
        compiled = self.compiled(block, "reduce-overhead" if few else "max-autotune-no-cudagraphs")
        batch = x[None]
        return lambda: compiled(batch)

    def lm_head(self, name, _variant, tokens, vocabulary, hidden):
        torch, F = self.torch, self.F
        x, w = self.random(tokens, hidden), self.random(vocabulary, hidden, scale=hidden**-0.5)
        targets = torch.randint(0, vocabulary, (tokens,), device=self.device)
        if name == "mm":
            return lambda: torch.mm(x, w.t())
        if name == "mm+argmax":
            return lambda: torch.mm(x, w.t()).argmax(-1)
        return self.compiled(lambda: F.cross_entropy((x @ w.t()).float(), targets, reduction="none"))

    def sampling(self, name, variant, rows, vocabulary):
        torch = self.torch
        logits = torch.randn(rows, vocabulary, device=self.device) * 3

        def drawn():
            if variant == "argmax":
                return logits.argmax(-1)
            scaled = logits / 0.8
            if variant == "top_k":
                kth = torch.topk(scaled, min(200, vocabulary)).values[:, -1:]
                scaled = scaled.masked_fill(scaled < kth, float("-inf"))
            if variant == "top_p":
                ordered, ids = torch.sort(scaled, descending=True)
                shares = torch.softmax(ordered, -1)
                ordered = ordered.masked_fill(shares.cumsum(-1) - shares >= 0.9, float("-inf"))
                return ids.gather(-1, torch.multinomial(torch.softmax(ordered, -1), 1))
            return torch.multinomial(torch.softmax(scaled, -1), 1)
        return self.compiled(drawn) if name == "compile" else drawn

    def forward(self, name, variant, batch, seq, kv, layers, hidden, heads, vocabulary):
        if variant == "mixtral":
            return self.mixtral(batch, kv, layers, hidden, heads, vocabulary)
        torch = self.torch
        ids = torch.randint(0, vocabulary, (batch, seq), device=self.device)
        gpt = Gpt(self, batch, seq, kv, layers, hidden, heads, vocabulary)
        options = {"fullgraph": True} if name == "reduce-overhead" else {}
        compiled = self.compiled(gpt.forward, name, **options)
        return lambda: compiled(ids)

    def mixtral(self, batch, kv, layers, hidden, heads, vocabulary):
        from transformers import MixtralForCausalLM, StaticCache

        torch = self.torch
        config = self.mixtral_config(hidden, 7 * hidden // 2, 8, 2, True, num_hidden_layers=layers,
                                     num_attention_heads=heads, num_key_value_heads=heads // 4, vocab_size=vocabulary)
        bytes_needed = 2 * layers * 8 * 3 * hidden * config.intermediate_size
        if self.device == "cuda" and bytes_needed > torch.cuda.mem_get_info()[0]:
            raise MemoryError(f"its experts need {bytes_needed} bytes of device memory")
        model = self.filled(lambda: MixtralForCausalLM(config))
        cache = StaticCache(config=config, max_cache_len=kv)
        ids = torch.randint(0, vocabulary, (batch, 1), device=self.device)
        last = torch.tensor([kv - 1], device=self.device)
        step = self.compiled(model.forward, "reduce-overhead", fullgraph=True)
        return lambda: step(ids, past_key_values=cache, cache_position=last, position_ids=last[None]).logits


class Gpt:
    """GPT-2 as nanoGPT writes it, with random weights; with a cache that holds the tokens before where seq is 1."""

    def __init__(self, calls, batch, seq, kv, layers, hidden, heads, vocabulary):
        self.F, self.heads, self.past = calls.F, heads, kv - seq
        self.tokens, self.positions = calls.random(vocabulary, hidden, scale=0.02), calls.random(kv, hidden, scale=0.02)

        def linear(out, inputs):
            return calls.random(out, inputs, scale=0.02), calls.random(out, scale=0.02)
        ones = calls.random(hidden) * 0 + 1
        self.norm = (ones, calls.random(hidden, scale=0.02))
        self.layers = [(linear(3 * hidden, hidden), linear(hidden, hidden), linear(4 * hidden, hidden),
                        linear(hidden, 4 * hidden)) for _ in range(layers)]
        shape = (batch, heads, kv, hidden // heads)
        self.caches = [(calls.random(*shape), calls.random(*shape)) for _ in range(layers)] if self.past else None

    def forward(self, ids):
        F = self.F
        batch, seq = ids.shape
        x = F.embedding(ids, self.tokens) + self.positions[self.past:]
        hidden = x.shape[-1]
        for index, (qkv, out, up, down) in enumerate(self.layers):
            normed = F.layer_norm(x, (hidden,), *self.norm)
            q, k, v = (part.view(batch, seq, self.heads, -1).transpose(1, 2)
                       for part in F.linear(normed, *qkv).split(hidden, -1))
            if self.caches:
                keys, values = self.caches[index]
                keys[:, :, self.past:].copy_(k)
                values[:, :, self.past:].copy_(v)
                k, v = keys, values
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=not self.caches,
                                                      scale=1 / math.sqrt(q.shape[-1]))
            x = x + F.linear(attended.transpose(1, 2).reshape(batch, seq, hidden), *out)
            normed = F.layer_norm(x, (hidden,), *self.norm)
            x = x + F.linear(F.gelu(F.linear(normed, *up), approximate="tanh"), *down)
        logits = F.linear(F.layer_norm(x, (hidden,), *self.norm), self.tokens)
        return logits.argmax(-1) if self.caches else logits
