"""Checks and times the CUDA engine against PyTorch in float32 and bfloat16, without TensorFlow and Node.

    python3 bench/gpu/engine/check.py [check] [decode] [time] [profile] [--offload] [--layers N]

`--offload` also times blocks whose inputs are in host memory.

Needs a card, PyTorch and g++. Prints `wrong` and ends with status 1 if a number is off.
"""

import ctypes
import glob
import math
import os
import pathlib
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

here = pathlib.Path(__file__).resolve().parent
native = here / "../../../layers/kernels/tensorflow/native/cuda"
build = pathlib.Path(os.environ.get("ENGINE_BUILD", "/tmp/engine-build"))
NONE, ON_CARD, ON_HOST = range(3)  # Checkpointing of the engine
KINDS = {"bfloat16": 0, "float16": 1, "float32": 2, "nf4": 3, "fp4": 4, "int8": 5}
failed = False


def library():
    build.mkdir(exist_ok=True)
    (build / "cache").mkdir(exist_ok=True)
    sources = [str(here / "harness.cc")] + [str(native / f"{name}.cc") for name in (
        "driver", "products", "device", "host_memory", "adapted_weight", "attention", "decoder_stack", "decode", "token_chain",
        "linear_cross_entropy", "optimizer")]
    objects = [str(build / (pathlib.Path(source).stem + ".o")) for source in sources]
    compiles = [subprocess.Popen(["g++", "-std=c++17", "-O2", "-fPIC", "-c", source, "-o", object_])
                for source, object_ in zip(sources, objects)]
    assert all(each.wait() == 0 for each in compiles)
    output = str(build / "engine.so")
    subprocess.run(["g++", "-shared", "-o", output, *objects, "-ldl"], check=True)
    for name in ("libnvrtc.so*", "libnvrtc-builtins.so*"):  # in the wheels next to PyTorch
        for folder in sys.path:
            for found in glob.glob(f"{folder}/nvidia/*/lib/{name}"):
                if "alt" not in found:
                    ctypes.CDLL(found, mode=ctypes.RTLD_GLOBAL)
    lib = ctypes.CDLL(output)
    for each in ("engineSavedBytes", "engineForward", "engineBackward", "engineDecode", "engineAttention", "engineCrossEntropy",
                 "engineUpdate", "engineChainRun", "engineChainRead"):
        getattr(lib, each).restype = ctypes.c_int64
    lib.engineTakeHostMemory.restype = ctypes.c_void_p
    lib.engineChain.restype = ctypes.c_void_p
    lib.engineFolders(str(native / "kernels").encode(), str(build / "cache").encode())
    return lib


lib = library()
stream = torch.cuda.Stream()
torch.cuda.set_stream(stream)
STREAM = ctypes.c_void_p(stream.cuda_stream)


def pointer(tensor):
    return ctypes.c_void_p(0 if tensor is None else tensor.data_ptr())


def say(name, got, wanted, bound):
    """Returns the largest difference as a share of the largest number."""
    global failed
    error = ((got.double() - wanted.double()).abs().max() / wanted.double().abs().max()).item()
    isRight = error <= bound and bool(torch.isfinite(got).all())
    failed = failed or not isRight
    print(f"{'ok   ' if isRight else 'wrong'} {name}: {error:.2e} (at most {bound:.0e})", flush=True)


def median(body, times=10, warm=3):
    for _ in range(warm):
        body()
    spans = []
    for _ in range(times):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        body()
        end.record()
        end.synchronize()
        spans.append(begin.elapsed_time(end))
    return sorted(spans)[times // 2]


# --- attention

def split(qkv, batch, length, heads, groups, dim):
    q, k, v = qkv.view(batch, length, heads + 2 * groups, dim).transpose(1, 2).split([heads, groups, groups], 1)
    repeat = heads // groups
    return q, k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)


def mask_of(length, segments):
    mask = torch.ones(length, length, dtype=torch.bool, device="cuda").tril()[None, None]
    if segments is None:
        return mask
    same = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] != 0)
    return mask & same[:, None]


def reference_attention(q, k, v, mask):
    scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
    return torch.nan_to_num(scores.softmax(-1)) @ v


def run_attention(qkv, batch, length, heads, groups, dim, segments, dy=None):
    rows = batch * length
    y = torch.full((rows, heads * dim), math.nan, dtype=torch.bfloat16, device="cuda")
    log_sums = torch.empty(batch * heads * length, device="cuda")
    along, d_qkv = torch.empty_like(log_sums), torch.full_like(qkv, math.nan)
    for each in (None, dy) if dy is not None else (None,):
        status = lib.engineAttention(
            *(ctypes.c_int64(n) for n in (batch, length, heads, groups, dim)), pointer(segments), pointer(qkv), pointer(y),
            pointer(log_sums), pointer(each), pointer(along), pointer(d_qkv), STREAM)
        assert status >= 0
    return y, d_qkv


def check_attention():
    for batch, length, heads, groups, dim, segmented in [
        (1, 64, 1, 1, 64, False), (2, 200, 4, 2, 64, False), (2, 333, 8, 2, 64, True), (1, 517, 4, 1, 128, False),
        (2, 300, 4, 2, 128, True), (2, 1024, 8, 2, 64, False), (1, 17, 4, 4, 64, False), (3, 129, 2, 1, 128, False)]:
        qkv = torch.randn(batch * length, (heads + 2 * groups) * dim, device="cuda").bfloat16()
        dy = torch.randn(batch * length, heads * dim, device="cuda").bfloat16()
        segments = None
        if segmented:
            at = torch.arange(length, device="cuda")
            segments = torch.stack([1.0 + (at > length // (row + 2)) + (at > length // 2 + 20) for row in range(batch)]).float()
            segments[:, -7:] = 0
        wide = qkv.float().requires_grad_()
        mask = mask_of(length, segments)
        y = reference_attention(*split(wide, batch, length, heads, groups, dim), mask).transpose(1, 2).reshape_as(dy)
        y.backward(dy.float())
        got, d_qkv = run_attention(qkv, batch, length, heads, groups, dim, segments, dy)
        name = f"attention {batch}x{length}, {heads}/{groups} of {dim}{', segments' if segmented else ''}"
        say(name, got, y, 8e-3)
        say(name + ", gradient", d_qkv, wide.grad, 1.5e-2)


# --- the stack

class Model:
    """Random decoder blocks for the engine and for PyTorch."""

    def __init__(self, batch, length, hidden, heads, groups, dim, intermediate, layers, rank, kind="bfloat16", segments=None,
                 checkpointing=ON_CARD, ranks=None, seed=0):
        torch.manual_seed(seed)
        self.sizes = (batch, length, hidden, heads, groups, dim, intermediate)
        self.plan = [*self.sizes, 0, checkpointing, layers]
        self.numbers = [1e-5]
        half = dim // 2
        angle = torch.arange(length, device="cuda")[:, None] * 500000.0 ** (-torch.arange(half, device="cuda") / half)[None]
        self.cos, self.sin, self.segments = angle.cos().contiguous(), angle.sin().contiguous(), segments
        self.keep, self.blocks, self.gradients = [], [], []
        pointers = [self.cos, self.sin, segments]
        shapes = [(heads * dim, hidden), (groups * dim, hidden), (groups * dim, hidden), (hidden, heads * dim),
                  (intermediate, hidden), (intermediate, hidden), (hidden, intermediate)]
        for layer in range(layers):
            norms = [1 + 0.1 * torch.randn(hidden, device="cuda") for _ in range(2)]
            pointers += norms
            projections = []
            for place, (rows, cols) in enumerate(shapes):
                own = rank if ranks is None else ranks[place]
                weight, stored, meta = store(torch.randn(rows, cols, device="cuda") / math.sqrt(cols), kind)
                a = torch.randn(own, cols, device="cuda") / math.sqrt(cols)
                b = 0.05 * torch.randn(rows, own, device="cuda")
                da, db = torch.full_like(a, math.nan), torch.full_like(b, math.nan)
                self.plan += [KINDS[kind], rows, cols, meta.get("blockSize", 0), meta.get("nested", 0), own]
                self.numbers += [meta.get("offset", 0.0), 2.0]
                pointers += [stored, *(meta.get(name) for name in ("absmax", "codes", "map", "nestedAbsmax", "scales")), a, b, da, db]
                projections.append((weight if layers <= 4 else None, a, b, 2.0))
                self.gradients += [(a, da), (b, db)] if own else []
            self.blocks.append((norms, projections))
        self.keep = pointers
        self.c = ((ctypes.c_int64 * len(self.plan))(*self.plan), (ctypes.c_double * len(self.numbers))(*self.numbers),
                  (ctypes.c_uint64 * len(pointers))(*(0 if t is None else t.data_ptr() for t in pointers)))
        size = lib.engineSavedBytes(*self.c)
        assert size >= 0
        self.kept_bytes, self.checkpointing = size, checkpointing
        if checkpointing == ON_HOST:
            self.saved = ctypes.c_void_p(lib.engineTakeHostMemory(ctypes.c_int64(size), STREAM))
        else:
            self.saved = torch.full((size // 4,), math.nan, device="cuda")
        self.arena = torch.full(((9 if batch * length > 8192 else 3) << 28,), math.nan, device="cuda")
        self.used = [0, 0]

    def saved_place(self):
        return self.saved if self.checkpointing == ON_HOST else pointer(self.saved)

    def __del__(self):
        if self.checkpointing == ON_HOST:
            lib.engineGiveHostMemory(self.saved, STREAM)

    def forward(self, x, keep=True):
        y = torch.empty_like(x)
        self.used[0] = lib.engineForward(*self.c, pointer(x), pointer(y), self.saved_place() if keep else None,
                                         pointer(self.arena), ctypes.c_int64(4 * self.arena.numel()), STREAM)
        assert self.used[0] >= 0
        return y

    def backward(self, dy, wanted=True):
        dx = torch.full_like(dy, math.nan) if wanted else None
        self.used[1] = lib.engineBackward(*self.c, self.saved_place(), pointer(dy), pointer(dx), pointer(self.arena),
                                          ctypes.c_int64(4 * self.arena.numel()), STREAM)
        assert self.used[1] >= 0
        return dx

    def reference(self, x, dtype):
        """Runs the blocks in a type, including the residual path; returns y and the leaves for gradients."""
        batch, length, hidden, heads, groups, dim, intermediate = self.sizes
        cos, sin = (torch.cat([t, t], 1).to(dtype)[None, None] for t in (self.cos, self.sin))
        mask = mask_of(length, self.segments)
        leaves = []

        def norm(x, weight):
            wide = x.float()
            return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight).to(dtype)

        def project(x, projection):
            weight, a, b, scaling = projection
            a, b = (t.detach().clone().requires_grad_() for t in (a, b))
            if a.shape[0]:
                leaves.extend([a, b])
            return x @ weight.to(dtype).T + (x @ a.to(dtype).T @ b.to(dtype).T) * scaling

        def turn(x):
            first, second = x.chunk(2, -1)
            return x * cos + torch.cat([-second, first], -1) * sin

        for (input_norm, post_norm), (q, k, v, o, gate, up, down) in self.blocks:
            normed = norm(x, input_norm)
            query, key, value = (project(normed, p).view(batch, length, n, dim).transpose(1, 2)
                                 for p, n in ((q, heads), (k, groups), (v, groups)))
            query, key = turn(query), turn(key)
            repeat = heads // groups
            attended = reference_attention(query, key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1), mask)
            x = x + project(attended.transpose(1, 2).reshape(batch * length, -1).to(dtype), o)
            normed = norm(x, post_norm)
            x = x + project(F.silu(project(normed, gate)) * project(normed, up), down)
        return x, leaves


NF4 = torch.tensor([-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                    -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
                    0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1])
FP4 = torch.tensor([0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3]) / 12


def store(weight, kind):
    """Returns the weight as PyTorch uses it, the tensors that the engine reads, and its other numbers."""
    rows, cols = weight.shape
    if kind in ("bfloat16", "float16", "float32"):
        stored = weight.to(getattr(torch, kind))
        return stored.float(), stored, {}
    if kind == "int8":
        scales = weight.abs().amax(1)
        codes = (weight * 127 / scales[:, None]).round().to(torch.int8)
        return codes.float() * scales[:, None] / 127, codes, {"scales": scales}
    # Any codes and scales will do, because the peer is the table, not a quantizer.
    table = (NF4 if kind == "nf4" else FP4).cuda()
    codes = torch.randint(0, 16, (rows * cols,), device="cuda")
    packed = (codes[0::2] * 16 + codes[1::2]).to(torch.uint8)
    blocks = rows * cols // 64
    map_ = torch.linspace(-1, 1, 256, device="cuda")
    absmax_codes = torch.randint(0, 256, (blocks,), device="cuda").to(torch.uint8)
    nested = 0.01 + 0.005 * torch.rand((blocks + 255) // 256, device="cuda")
    offset = 0.04 * math.sqrt(2048 / cols)
    absmax = map_[absmax_codes.long()] * nested.repeat_interleave(256)[:blocks] + offset
    value = (table[codes] * absmax.repeat_interleave(64)).view(rows, cols).bfloat16()
    return value.float(), packed, {"blockSize": 64, "nested": 256, "codes": absmax_codes, "map": map_, "nestedAbsmax": nested,
                                   "offset": offset}


def check_stack():
    segments = torch.ones(2, 150, device="cuda")
    segments[0, 60:] = 2
    segments[:, 140:] = 0
    cases = [
        ("1 block", dict(batch=1, length=128, hidden=256, heads=4, groups=2, dim=64, intermediate=512, layers=1, rank=8)),
        ("3 blocks, ragged", dict(batch=2, length=77, hidden=256, heads=4, groups=1, dim=64, intermediate=688, layers=3, rank=4)),
        ("heads of 128", dict(batch=2, length=150, hidden=384, heads=3, groups=1, dim=128, intermediate=512, layers=2, rank=16)),
        ("segments", dict(batch=2, length=150, hidden=256, heads=4, groups=2, dim=64, intermediate=512, layers=2, rank=8,
                          segments=segments)),
        ("q and v only", dict(batch=2, length=96, hidden=256, heads=4, groups=2, dim=64, intermediate=512, layers=2, rank=8,
                              ranks=[8, 0, 8, 0, 0, 0, 0])),
        ("no checkpointing", dict(batch=2, length=150, hidden=256, heads=4, groups=2, dim=64, intermediate=512, layers=2, rank=8,
                                  checkpointing=NONE)),
        ("many rows", dict(batch=5, length=2000, hidden=128, heads=2, groups=1, dim=64, intermediate=256, layers=2, rank=8)),
        *((kind, dict(batch=1, length=128, hidden=256, heads=4, groups=2, dim=64, intermediate=512, layers=2, rank=8, kind=kind))
          for kind in ("float16", "float32", "nf4", "fp4", "int8"))]
    for name, arguments in cases:
        model = Model(**arguments)
        rows = arguments["batch"] * arguments["length"]
        x, dy = (torch.randn(rows, arguments["hidden"], device="cuda") for _ in range(2))
        if arguments.get("segments") is not None:
            dy[(segments == 0).flatten()] = 0
        results = {}
        for dtype in (torch.float32, torch.bfloat16):
            leaf = x.clone().requires_grad_()
            y, leaves = model.reference(leaf.to(dtype), dtype)
            y.backward(dy.to(dtype))
            results[dtype] = [y.detach(), leaf.grad, *(each.grad for each in leaves)]
        right, half = results[torch.float32], results[torch.bfloat16]
        y = model.forward(x)
        dx = model.backward(dy)
        if arguments.get("segments") is not None:  # the results of padding have no meaning
            seen = (segments != 0).flatten()
            y, dx, right[0], half[0], right[1], half[1] = (t[seen] for t in (y, dx, right[0], half[0], right[1], half[1]))
        unkept = model.forward(x, keep=False)
        global failed
        if not torch.equal(unkept if arguments.get("segments") is None else unkept[seen], y):
            failed = True
            print("wrong", name, "forward without backward differs")
        got = [y, dx, *(gradient for _, gradient in model.gradients)]
        for part, mine, wanted, peer in zip(["y", "dx"] + ["gradient"] * 99, got, right, half):
            error = lambda t: ((t.double() - wanted.double()).abs().max() / wanted.double().abs().max()).item()
            mine_off, peer_off = error(mine), error(peer)
            if not (mine_off <= max(2 * peer_off, 1e-2)) or not torch.isfinite(mine).all():
                failed = True
                print(f"wrong {name} {part} {tuple(mine.shape)}: {mine_off:.2e}, PyTorch in bfloat16 {peer_off:.2e}")
            elif part != "gradient":
                print(f"ok    {name} {part}: {mine_off:.2e}, PyTorch in bfloat16 {peer_off:.2e}", flush=True)
        worst = max(((m.double() - w.double()).abs().max() / w.double().abs().max()).item()
                    for m, w in zip(got[2:], right[2:]))
        peer = max(((m.double() - w.double()).abs().max() / w.double().abs().max()).item()
                   for m, w in zip(half[2:], right[2:]))
        print(f"      {name} gradients: worst {worst:.2e}, PyTorch in bfloat16 {peer:.2e}", flush=True)


def check_offload():
    """The place of the blocks' inputs changes no bit, even while host memory is reused."""
    global failed
    for name, sizes in [("small", dict(batch=2, length=77, hidden=256, heads=4, groups=1, dim=64, intermediate=688, layers=5)),
                        ("large", dict(batch=4, length=2048, hidden=2048, heads=32, groups=8, dim=64, intermediate=8192, layers=4)),
                        ("one block", dict(batch=1, length=64, hidden=256, heads=4, groups=2, dim=64, intermediate=512, layers=1))]:
        x, dy = (torch.randn(sizes["batch"] * sizes["length"], sizes["hidden"], device="cuda") for _ in range(2))
        results = []
        for checkpointing in (ON_CARD, ON_HOST, ON_HOST):
            model = Model(**sizes, rank=8, kind="nf4", checkpointing=checkpointing)
            for repeat in range(3):
                got = [model.forward(x * (3 - repeat)), model.backward(dy * (3 - repeat)), *(d for _, d in model.gradients)]
            results.append([each.clone() for each in got])
            del model
        isRight = all(torch.equal(wanted, got) for other in results[1:] for wanted, got in zip(results[0], other))
        failed = failed or not isRight
        print(f"{'ok   ' if isRight else 'wrong'} inputs on the host, {name}: {len(results[0])} tensors as on the card", flush=True)


# --- one position at a time

class Caches:
    def __init__(self, model, capacity):
        batch, _, _, _, groups, dim, _ = model.sizes
        self.capacity = capacity
        self.tensors = [torch.full((batch, groups, capacity, dim), math.nan, device="cuda") for _ in range(2 * len(model.blocks))]
        self.c = (ctypes.c_uint64 * len(self.tensors))(*(t.data_ptr() for t in self.tensors))


def decode(model, caches, past, x, y):
    assert lib.engineDecode(*model.c, caches.c, ctypes.c_int64(past), ctypes.c_int64(caches.capacity), pointer(x), pointer(y),
                            pointer(model.arena), ctypes.c_int64(4 * model.arena.numel()), STREAM) >= 0


def check_decode():
    """Compares positions one by one with all together; the tables of a position replace those of position 0."""
    for kind, batch, heads, groups, dim, padded in [
        ("bfloat16", 1, 4, 2, 64, False), ("bfloat16", 3, 4, 1, 128, True), ("nf4", 2, 4, 2, 64, False), ("fp4", 8, 4, 2, 64, True),
        ("float16", 1, 4, 2, 64, False), ("float32", 4, 4, 2, 64, False), ("int8", 1, 4, 2, 64, False)]:
        length, capacity, hidden = 140, 256, 256
        segments = torch.ones(batch, capacity, device="cuda")
        if padded:
            for row in range(batch):
                segments[row, :3 * row] = 0
        sizes = dict(hidden=hidden, heads=heads, groups=groups, dim=dim, intermediate=512, layers=2, rank=8, kind=kind)
        whole = Model(batch=batch, length=length, segments=segments[:, :length].contiguous() if padded else None, **sizes)
        one = Model(batch=batch, length=1, segments=segments if padded else None, **sizes)
        cos, sin = whole.cos, whole.sin
        x = torch.randn(batch, length, hidden, device="cuda")
        wanted, _ = whole.reference(x.reshape(batch * length, hidden), torch.float32)
        wanted = wanted.view(batch, length, hidden).detach()
        caches, got = Caches(one, capacity), torch.empty_like(x)
        for past in range(length):
            one.cos.copy_(cos[past:past + 1])
            one.sin.copy_(sin[past:past + 1])
            step = torch.empty(batch, hidden, device="cuda")
            decode(one, caches, past, x[:, past].contiguous(), step)
            got[:, past] = step
        seen = segments[:, :length] != 0
        say(f"decode {kind}, batch {batch}, {heads}/{groups} of {dim}{', padded' if padded else ''}", got[seen], wanted[seen], 2e-5)


def time_decode():
    for kind in ("bfloat16", "nf4"):
        for batch, past in [(1, 500), (1, 4000), (8, 500)]:
            model = Model(batch=batch, length=1, hidden=2048, heads=32, groups=8, dim=64, intermediate=8192, layers=16, rank=8, kind=kind)
            caches = Caches(model, past + 12)
            for each in caches.tensors:
                each.normal_()
            x, y = torch.randn(batch, 2048, device="cuda"), torch.empty(batch, 2048, device="cuda")
            head = torch.randn(128256, 2048, device="cuda").bfloat16()
            stack = median(lambda: decode(model, caches, past, x, y))
            if "profile" in sys.argv:
                print_kernels(lambda: decode(model, caches, past, x, y), 16)
            both = median(lambda: (decode(model, caches, past, x, y), (y.bfloat16() @ head.T).argmax(-1)))
            print(f"decode 1B {kind}, batch {batch}, after {past}: {stack:.3f} ms for the blocks, {both:.3f} with head and choice",
                  flush=True)


# --- one token after the other

def projection_of(stored, meta, kind, rank=0, a=None, b=None):
    """Returns plan, numbers and pointers as the harness reads them."""
    rows, cols = meta["shape"]
    names = ("absmax", "codes", "map", "nestedAbsmax", "scales")
    return ([KINDS[kind], rows, cols, meta.get("blockSize", 0), meta.get("nested", 0), rank], [meta.get("offset", 0.0), 2.0],
            [stored, *(meta.get(name) for name in names), a, b, None, None])


class Chain:
    """Passes from a token to the next. The embedding is the head's weight too, unless the head has an adapter or is quantized."""

    def __init__(self, model, caches, tables, vocabulary, kind="bfloat16", head_kind=None, rank=0):
        batch, _, hidden = model.sizes[:3]
        self.batch = batch
        weight, stored, meta = store(torch.randn(vocabulary, hidden, device="cuda"), kind)
        meta["shape"] = (vocabulary, hidden)
        self.table = weight
        self.norm = 1 + 0.1 * torch.randn(hidden, device="cuda")
        self.head, head_stored, head_meta = (weight, stored, meta) if head_kind is None else store(
            torch.randn(vocabulary, hidden, device="cuda") / math.sqrt(hidden), head_kind)
        head_meta["shape"] = (vocabulary, hidden)
        a = torch.randn(rank, hidden, device="cuda") / math.sqrt(hidden)
        b = torch.randn(vocabulary, rank, device="cuda")
        if rank:
            self.head = self.head + 2 * b @ a
        parts = [projection_of(stored, meta, kind), projection_of(head_stored, head_meta, head_kind or kind, rank, a, b)]
        pointers = [each for part in parts for each in part[2]] + [self.norm]
        plan, numbers = ([each for part in parts for each in part[i]] for i in range(2))
        for i, table in enumerate(tables):
            model.c[2][i] = table.data_ptr()
        self.arena = torch.full((1 << 22,), math.nan, device="cuda")
        self.keep = (model, caches, tables, pointers, meta, head_meta)
        self.answer = (ctypes.c_float * batch)()
        self.given = (
            *model.c, caches.c, ctypes.c_int64(caches.capacity), (ctypes.c_int64 * len(plan))(*plan),
            (ctypes.c_double * len(numbers))(*numbers),
            (ctypes.c_uint64 * len(pointers))(*(0 if t is None else t.data_ptr() for t in pointers)), pointer(self.arena),
            ctypes.c_int64(4 * self.arena.numel()), STREAM)
        self.start()

    def start(self):
        self.handle = ctypes.c_void_p(lib.engineChain(*self.given))
        assert self.handle.value

    def run(self, past, positions, tokens=None):
        ints = lambda values: None if values is None else (ctypes.c_int32 * self.batch)(*values)
        assert lib.engineChainRun(self.handle, ctypes.c_int64(past), ints(positions), ints(tokens)) >= 0

    def read(self):
        assert lib.engineChainRead(self.handle, self.answer) >= 0
        return [int(each) for each in self.answer]

    def end(self):
        lib.engineChainEnd(self.handle)


def check_chain():
    """Compares the tokens that each pass chooses for the next, which the host reads later, with PyTorch's."""
    global failed
    q_and_v = [8, 0, 8, 0, 0, 0, 0]
    for kind, batch, heads, groups, dim, padded, vocabulary, extra in [
        ("bfloat16", 1, 4, 2, 64, False, 1003, {}), ("bfloat16", 3, 4, 1, 128, True, 520, {}),
        ("nf4", 2, 4, 2, 64, False, 509, dict(ranks=q_and_v)), ("fp4", 4, 4, 2, 64, True, 777, {}),
        ("float16", 1, 4, 2, 64, False, 512, dict(kind="float16", ranks=[0] * 7)), ("float32", 1, 4, 2, 64, False, 300, dict(kind="float32")),
        ("int8", 2, 4, 4, 64, True, 999, dict(rank=4)), ("nf4", 1, 8, 2, 64, False, 640, dict(head_kind="nf4"))]:
        length, capacity, hidden = 40, 64, 256
        segments = torch.ones(batch, capacity, device="cuda")
        paddings = [3 * row if padded else 0 for row in range(batch)]
        for row, padding in enumerate(paddings):
            segments[row, :padding] = 0
        ranks = extra.pop("ranks", None)
        sizes = dict(hidden=hidden, heads=heads, groups=groups, dim=dim, intermediate=512, layers=2, rank=8, ranks=ranks, kind=kind)
        whole = Model(batch=batch, length=length, segments=segments[:, :length].contiguous() if padded else None, **sizes)
        one = Model(batch=batch, length=1, segments=segments if padded else None, **sizes)
        caches = Caches(one, capacity)
        chain = Chain(one, caches, (whole.cos, whole.sin), vocabulary, **extra)
        tokens = [[(7 * row + 3) % vocabulary] for row in range(batch)]
        positions = lambda past: [max(0, past - padding) for padding in paddings]
        chain.run(0, positions(0), [own[0] for own in tokens])
        for past in range(1, length):
            if past % 11 == 5:  # the host sets this token
                for own, chosen in zip(tokens, chain.read()):
                    own.append((chosen + 1) % vocabulary)
                chain.run(past, positions(past), [own[-1] for own in tokens])
                continue
            chain.run(past, positions(past))
            for own, chosen in zip(tokens, chain.read()):
                own.append(chosen)
        last = chain.read()
        chain.end()
        ids = torch.tensor(tokens, device="cuda")
        # Padded rows have tables that start at another position.
        total = 0
        for row, padding in enumerate(paddings):
            single = Model(batch=1, length=length - padding, **sizes)
            y, _ = single.reference(chain.table[ids[row, padding:]], torch.float32)
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5) * chain.norm
            logits = y @ chain.head.T
            chosen = [*tokens[row][padding + 1:], last[row]]
            for at, token in enumerate(chosen):
                if (at + padding + 1) % 11 == 5 and at + 1 < len(chosen):
                    token = (token - 1) % vocabulary
                lead = (logits[at].max() - logits[at][token]) / logits[at].abs().max()
                total += int(lead > 2e-5)
        name = f"chain {kind}, batch {batch}, {heads}/{groups} of {dim}{', padded' if padded else ''} {extra or ''}"
        failed = failed or total > 0
        print(f"{'wrong' if total else 'ok   '} {name}: {total} of {batch * length} tokens differ", flush=True)


def check_endurance():
    """Runs thousands of passes of the 1B and ends each chain during a pass: equal starts must give equal tokens."""
    global failed
    for kind in ("bfloat16", "nf4"):
        model = Model(batch=1, length=1, hidden=2048, heads=32, groups=8, dim=64, intermediate=8192, layers=16, rank=0, kind=kind)
        caches = Caches(model, 400)
        for each in caches.tensors:
            each.normal_()
        chain = Chain(model, caches, [torch.rand(400, 32, device="cuda") for _ in range(2)], 128256)
        turns = []
        for _ in range(12):
            chosen = []
            chain.run(100, [100], [1])
            for past in range(101, 400):
                chain.run(past, [past])
                chosen += chain.read()
            turns.append(chosen)
            chain.end()
            chain.start()
        chain.end()
        isRight = all(turn == turns[0] for turn in turns)
        failed = failed or not isRight
        print(f"{'ok   ' if isRight else 'wrong'} chain 1B {kind}, {12 * 300} passes", flush=True)
        del model, caches, chain
        torch.cuda.empty_cache()


def time_chain():
    for kind in ("bfloat16", "nf4"):
        for batch, past, rank in [(1, 500, 0), (1, 500, 8), (1, 4000, 0), (4, 500, 0)]:
            model = Model(batch=batch, length=1, hidden=2048, heads=32, groups=8, dim=64, intermediate=8192, layers=16, rank=rank, kind=kind)
            caches = Caches(model, past + 300)
            for each in caches.tensors:
                each.normal_()
            tables = [torch.rand(caches.capacity, 32, device="cuda") for _ in range(2)]
            chain = Chain(model, caches, tables, 128256)
            chain.run(past, [past] * batch, [1] * batch)
            begun, count = None, 200
            for i in range(1, count + 20):
                if i == 20:
                    begun = time.perf_counter()
                chain.run(past + i, [past + i] * batch)
                chain.read()
            chain.read()
            each = 1000 * (time.perf_counter() - begun) / count
            alone = median(lambda: chain.run(past, [past] * batch), times=20)
            for _ in range(23):
                chain.read()
            read = sum(t.numel() * t.element_size() for t in {id(t): t for t in model.keep if t is not None}.values())
            print(f"chain 1B {kind}, batch {batch}, rank {rank}, after {past}: {each:.3f} ms a token from the host, "
                  f"{batch * 1000 / each:.0f} tokens/s; {alone:.3f} on the card, "
                  f"{(read + chain.table.numel() * 2) / alone / 1e9:.2f} TB/s of weights", flush=True)
            if "profile" in sys.argv and rank == 0:
                print_kernels(lambda: chain.run(past, [past] * batch), 1)
                chain.read()
            chain.end()


# --- loss and optimizer

def check_loss():
    for rows, vocabulary, width in [(300, 1000, 256), (77, 509, 128), (2000, 128256, 256)]:
        weight = (torch.randn(vocabulary, width, device="cuda") / math.sqrt(width)).bfloat16()
        hidden = torch.randn(rows, width, device="cuda").requires_grad_()
        labels = torch.randint(0, vocabulary, (rows,), device="cuda")
        labels[::5] = -100
        wanted = F.cross_entropy(hidden.bfloat16().float() @ weight.float().T, labels, reduction="sum")
        wanted.backward()
        loss, gradient = torch.empty((), device="cuda"), torch.full_like(hidden, math.nan)
        arena = torch.empty(3 << 28, device="cuda")
        used = lib.engineCrossEntropy(pointer(weight), *(ctypes.c_int64(n) for n in (vocabulary, width, rows)), pointer(hidden),
                                      pointer(labels.float()), pointer(loss), pointer(gradient), pointer(arena),
                                      ctypes.c_int64(4 * arena.numel()), STREAM)
        assert used >= 0
        say(f"loss of {rows} rows, {vocabulary} tokens", loss.detach(), wanted.detach(), 1e-3)
        say("  gradient", gradient, hidden.grad, 1e-2)


ADAMW, ADAMW_8BIT, LION, LION_8BIT = range(4)  # Rule of the engine


def run_update(rule, sizes, tensors, nexts, factors, maps=None, most=None):
    """Returns the norm of the gradients, which is clipped to `most`."""
    pointers = [t.data_ptr() for own, following in zip(tensors, nexts) for t in (*own, *following)]
    norm, arena = torch.empty((), device="cuda"), torch.empty(1 << 20, device="cuda")
    used = lib.engineUpdate(ctypes.c_int64(rule), ctypes.c_int64(len(sizes)), (ctypes.c_int64 * len(sizes))(*sizes),
                            (ctypes.c_uint64 * len(pointers))(*pointers), pointer(factors), pointer(maps), pointer(norm),
                            pointer(most), pointer(arena), ctypes.c_int64(4 << 20), STREAM)
    assert used >= 0
    return norm


def check_8bit(sizes):
    """Any ascending map will do, because the peer is its definition on the same codes and scales."""
    signed = torch.linspace(-1, 1, 256, dtype=torch.float64).pow(3).float()
    unsigned = torch.linspace(0, 1, 256, dtype=torch.float64).pow(3).float()
    steps = torch.linspace(-1, 1, 65536)
    nearest = lambda m: torch.searchsorted(((m[1:] + m[:-1]) / 2).contiguous(), steps).to(torch.uint8)
    maps = torch.cat([torch.cat([m.view(torch.uint8), nearest(m)]) for m in (signed, unsigned)]).cuda()

    def wide(codes, scales, m, size):
        return (m.cuda()[codes.long()] * scales.repeat_interleave(256)[:codes.numel()])[:size].double()

    for rule, states in ((ADAMW_8BIT, (signed, unsigned)), (LION_8BIT, (signed,))):
        words = [(size + 3) // 4 * 4 for size in sizes]
        fresh = lambda n, m: [torch.randint(0, 256, (n,), device="cuda").to(torch.uint8), 0.1 + torch.rand((n + 255) // 256, device="cuda")]
        empty = lambda n, m: [torch.full((n,), 9, device="cuda").to(torch.uint8), torch.empty((n + 255) // 256, device="cuda")]
        tensors = [[torch.rand(s, device="cuda") - 0.5, torch.rand(s, device="cuda") - 0.5, *(t for m in states for t in fresh(n, m))]
                   for s, n in zip(sizes, words)]
        nexts = [[torch.empty(s, device="cuda"), *(t for m in states for t in empty(n, m))] for s, n in zip(sizes, words)]
        f = torch.tensor([0.9, 0.1, 0.99, 0.01, 0.7, 1e-8, 0.999, -1e-3] if rule == ADAMW_8BIT else [0.9, 0.1, 0.99, 0.01, 0.999, 1e-3],
                         device="cuda")
        run_update(rule, sizes, tensors, nexts, f, maps)
        f = f.double()
        for size, own, following in zip(sizes, tensors, nexts):
            value, g = own[0].double(), own[1].double()
            olds = [wide(own[2 + 2 * k], own[3 + 2 * k], m, size) for k, m in enumerate(states)]
            if rule == ADAMW_8BIT:
                wanted = [f[0] * olds[0] + f[1] * g, f[2] * olds[1] + f[3] * g * g]
                say("AdamW in 8 bits", following[0], f[6] * value + f[7] * wanted[0] / (wanted[1].sqrt() / f[4] + f[5]), 1e-5)
            else:
                wanted = [f[2] * olds[0] + f[3] * g]
                say("Lion in 8 bits", following[0], f[4] * value - f[5] * torch.sign(f[0] * olds[0] + f[1] * g), 1e-6)
            for k, (m, state) in enumerate(zip(states, wanted)):
                codes, scales = following[1 + 2 * k], following[2 + 2 * k]
                blocks = F.pad(state, (0, -size % 256)).view(-1, 256)
                say("  scales", scales, blocks.abs().amax(1), 1e-6)
                normal = (blocks / blocks.abs().amax(1, keepdim=True)).flatten()[:size].float()
                expected = nearest(m).cuda()[((normal + 1) * 0.5 * 65535 + 0.5).long()]
                say("  codes", codes[:size].double(), expected.double(), 1 / 200)  # a value between two codes may get either
                say("  unused bytes", 1 + codes[size:].double().sum(), torch.ones((), device="cuda"), 0)


def check_optimizer():
    sizes = [5, 4096, 4097, 100000, 16384]
    tensors = [[torch.rand(size, device="cuda") - (0.5 if part < 3 else 0) for part in range(4)] for size in sizes]
    nexts = [[torch.empty(size, device="cuda") for _ in range(3)] for size in sizes]
    factors = torch.tensor([0.9, 0.1, 0.999, 0.001, 1.7, 1e-8, 0.999, 1e-3], device="cuda")
    norm = run_update(ADAMW, sizes, tensors, nexts, factors)
    say("gradient norm", norm, torch.cat([t[1] for t in tensors]).norm(), 1e-6)
    f = factors.double()
    for own, following in zip(tensors, nexts):
        value, g, mean, variance = (t.double() for t in own)
        mean, variance = f[0] * mean + f[1] * g, f[2] * variance + f[3] * g * g
        say("AdamW", following[0], f[6] * value - f[7] * mean / (variance.sqrt() * f[4] + f[5]), 1e-5)
        say("  mean", following[1], mean, 1e-6)
    run_update(ADAMW, sizes, tensors, nexts, factors, most=torch.tensor(0.25, device="cuda"))
    clipping = 0.25 / (norm.double() + 1e-6)
    for own, following in zip(tensors, nexts):
        say("  mean, gradients clipped", following[1], f[0] * own[2].double() + f[1] * own[1].double() * clipping, 1e-6)
    for own, following in zip(tensors, nexts):
        del own[3], following[2]
    factors = torch.tensor([0.9, 0.1, 0.99, 0.01, 0.999, 1e-3], device="cuda")
    run_update(LION, sizes, tensors, nexts, factors)
    f = factors.double()
    for own, following in zip(tensors, nexts):
        value, g, momentum = (t.double() for t in own)
        say("Lion", following[0], f[4] * value - f[5] * torch.sign(f[0] * momentum + f[1] * g), 1e-6)
        say("  momentum", following[1], f[2] * momentum + f[3] * g, 1e-6)
    check_8bit(sizes)


# --- time

def flops(model):
    batch, length, hidden, heads, groups, dim, intermediate = model.sizes
    own = (2 * heads + 2 * groups) * dim * hidden + 3 * hidden * intermediate
    return 2 * batch * length * own


def time_stack(layers, profile, offload):
    for name, sizes in [("1B 4x2048", dict(batch=4, length=2048, hidden=2048, heads=32, groups=8, dim=64, intermediate=8192)),
                        ("1B 1x32768", dict(batch=1, length=32768, hidden=2048, heads=32, groups=8, dim=64, intermediate=8192)),
                        ("1B 1x512", dict(batch=1, length=512, hidden=2048, heads=32, groups=8, dim=64, intermediate=8192)),
                        ("8B 2x2048", dict(batch=2, length=2048, hidden=4096, heads=32, groups=8, dim=128, intermediate=14336))]:
        ways = [(kind, way) for kind in ("bfloat16", "nf4") for way in (ON_CARD, ON_HOST)] if offload else [
            ("bfloat16", ON_CARD), ("nf4", ON_CARD), ("bfloat16", NONE)]
        for kind, checkpointing in ways:
            if name != "1B 4x2048" and not (kind == "nf4"):
                continue
            model = Model(**sizes, layers=layers, rank=8, kind=kind, checkpointing=checkpointing)
            x = torch.randn(sizes["batch"] * sizes["length"], sizes["hidden"], device="cuda")
            forward = median(lambda: model.forward(x))
            backward = median(lambda: model.backward(x, wanted=False))
            whole = (forward + backward) / layers
            rate = flops(model) * (2 if checkpointing == NONE else 3) / whole / 1e9
            print(f"{name} {kind} {('all kept', 'checkpointed', 'inputs on the host')[checkpointing]}: a block {forward / layers:.3f} + "
                  f"{backward / layers:.3f} ms = {whole:.3f}; products at {rate:.0f} TFLOP/s; "
                  f"scratch {model.used[0] / 2**30:.2f} and {model.used[1] / 2**30:.2f} GiB, "
                  f"kept {model.kept_bytes / layers / 2**20:.0f} MiB a block", flush=True)
            if profile and name != "1B 1x512":
                print_kernels(lambda: (model.forward(x), model.backward(x, wanted=False)), layers)
            del model
            torch.cuda.empty_cache()


def print_kernels(body, layers):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as p:
        body()
        torch.cuda.synchronize()
    totals = {}
    for event in p.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            time, count = totals.get(event.name, (0, 0))
            totals[event.name] = (time + event.device_time, count + 1)
    for kernel, (time, count) in sorted(totals.items(), key=lambda each: -each[1][0])[:28]:
        print(f"    {time / 1e3 / layers:.4f} ms a block, {count / layers:.1f} x {kernel[:110]}")


def time_attention():
    for batch, length, heads, groups, dim in [(4, 2048, 32, 8, 64), (2, 2048, 32, 8, 128), (1, 8192, 32, 8, 64)]:
        qkv = torch.randn(batch * length, (heads + 2 * groups) * dim, device="cuda").bfloat16()
        dy = torch.randn(batch * length, heads * dim, device="cuda").bfloat16()
        forward = median(lambda: run_attention(qkv, batch, length, heads, groups, dim, None))
        both = median(lambda: run_attention(qkv, batch, length, heads, groups, dim, None, dy))
        q, k, v = (t.contiguous().requires_grad_() for t in split(qkv, batch, length, heads, groups, dim))
        peer = median(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        slope = torch.randn_like(out)
        peer_back = median(lambda: torch.autograd.grad(out, (q, k, v), slope, retain_graph=True))
        work = 2 * batch * heads * length * length * dim / 1e9
        print(f"attention {batch}x{length} {heads}/{groups} of {dim}: {forward:.3f} ms ({work / forward:.0f} TFLOP/s), gradient "
              f"{both - forward:.3f}; PyTorch {peer:.3f}, {peer_back:.3f}", flush=True)


def time_loss():
    rows, vocabulary, width = 8192, 128256, 2048
    weight = (torch.randn(vocabulary, width, device="cuda") / math.sqrt(width)).bfloat16()
    hidden, gradient = torch.randn(rows, width, device="cuda"), torch.empty(rows, width, device="cuda")
    labels, loss = torch.randint(0, vocabulary, (rows,), device="cuda").float(), torch.empty((), device="cuda")
    arena = torch.empty(1 << 28, device="cuda")
    print("loss of 4x2048 with its gradient: %.2f ms" % median(lambda: lib.engineCrossEntropy(
        pointer(weight), *(ctypes.c_int64(n) for n in (vocabulary, width, rows)), pointer(hidden), pointer(labels), pointer(loss),
        pointer(gradient), pointer(arena), ctypes.c_int64(4 * arena.numel()), STREAM)))


def main():
    words = sys.argv[1:]
    layers = int(words[words.index("--layers") + 1]) if "--layers" in words else 4
    torch.backends.cuda.matmul.allow_tf32 = False
    if "check" in words:
        check_attention()
        check_optimizer()
        check_loss()
        check_stack()
        check_offload()
        check_decode()
        check_chain()
        check_endurance()
    if "decode" in words:
        check_decode()
        check_chain()
        check_endurance()
        time_decode()
        time_chain()
    if "time" in words or "profile" in words:
        time_attention()
        time_loss()
        time_decode()
        time_chain()
        time_stack(layers, "profile" in words, "--offload" in words)
    print("WRONG" if failed else "all right")
    sys.exit(1 if failed else 0)


main()
