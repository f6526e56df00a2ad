"""Training on a CPU does not load torch's compiler, and computes what it computes with it."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from instruct_core.train.compiler import COMPILED, COMPILER
from instruct_core.train.optimizer import FusedAdamW
from tests.conftest import environment

# Trains a layer on a rank of a group of one, with the pieces that a run is made of; prints what
# came out, and whether the compiler was loaded.
TRAIN = """
import json, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from instruct_core.model.products import is_exact
from instruct_core.train.compiler import COMPILER, data_parallel, eagerly
from instruct_core.train.optimizer import FusedAdamW
import instruct_core.train.trainer

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
is_exact()
torch.manual_seed(1)
layer = torch.nn.Linear(300, 300)
model = data_parallel(layer, torch.device("cpu"), compiled=sys.argv[1] == "compiled")
groups = [{"params": list(layer.parameters()), "weight_decay": 0.1}]
optimizer = FusedAdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
for _ in range(3):
    with eagerly():
        model(torch.rand(4, 300)).square().sum().backward()
    torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
assert isinstance(model, DistributedDataParallel)
loaded = [name for name in (COMPILER, "sympy", "instruct_core.data.shard_plan") if name in sys.modules]
print(json.dumps([loaded, layer.weight.sum().item(), layer.bias.tolist()]))
import torch._dynamo
print(json.dumps(callable(torch._dynamo.disable)))  # the real one: nothing stands in for it
dist.destroy_process_group()
"""


def trained(how: str) -> list[object]:
    command = [sys.executable, "-c", TRAIN, how]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result, is_real = (json.loads(line) for line in done.stdout.splitlines())
    assert is_real
    return list(result)


def test_training_loads_no_compiler_and_nothing_that_makes_shards_and_comes_to_the_same() -> None:
    loads, *result = trained("as it is written")
    loads_when_compiled, *expected = trained("compiled")

    assert not loads, (
        f"{loads}: a torch that loads it elsewhere too? See instruct_core/train/compiler.py"
    )
    assert COMPILER in str(loads_when_compiled)
    assert result == expected


@pytest.mark.parametrize("num_steps", [1, 7])
def test_optimizer_is_torchs_bit_for_bit(num_steps: int) -> None:
    torch.manual_seed(1)
    ours = [torch.randn(n, requires_grad=True) for n in (1, 77, 5000)]
    theirs = [value.detach().clone().requires_grad_() for value in ours]
    settings = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8}
    mine = FusedAdamW(_groups(ours), **settings)
    real = torch.optim.AdamW(_groups(theirs), fused=True, **settings)
    for step in range(num_steps):
        for group in (*mine.param_groups, *real.param_groups):
            group["lr"] = 1e-3 / (step + 1)
        for value, other in zip(ours[step % 2 :], theirs[step % 2 :], strict=True):
            value.grad = torch.randn_like(value)
            other.grad = value.grad.clone()
        for optimizer in (mine, real):
            optimizer.step()
            optimizer.zero_grad(set_to_none=step % 2 == 0)

    for value, other in zip(ours, theirs, strict=True):
        assert torch.equal(value, other)
        assert mine.state[value].keys() == real.state[other].keys()
        assert all(torch.equal(mine.state[value][k], v) for k, v in real.state[other].items())
        assert (value.grad is None) == (other.grad is None)


def _groups(parameters: list[torch.Tensor]) -> list[dict[str, object]]:
    return [
        {"params": parameters[:2], "weight_decay": 0.1},
        {"params": parameters[2:], "weight_decay": 0.0},
    ]


WHERE_COMPILED = """
import sys
from instruct_core.train.compiler import keep_compiled_apart
if sys.argv[1] == "late":
    import torch._dynamo
    keep_compiled_apart()
from torch._inductor.runtime.cache_dir_utils import cache_dir

keep_compiled_apart()
print(cache_dir())
"""


@pytest.mark.parametrize(("is_ours", "when"), [(True, "early"), (False, "early"), (True, "late")])
def test_code_that_somebody_else_has_put_down_is_not_run(
    tmp_path: Path, is_ours: bool, when: str
) -> None:
    """The temporary folder is everybody's: so may be what torch's name for its own code leads to."""
    usual = tmp_path / f"instruct-cluster-{os.getuid()}"
    for name in (f"torchinductor_{getpass.getuser()}", *([] if is_ours else [usual.name])):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)

    folder = Path(asked_of_torch(when, {"TMPDIR": str(tmp_path)}))

    assert folder.parent.parent == tmp_path
    assert (folder.parent == usual) == is_ours
    assert folder.parent.name.startswith("instruct-cluster-")


def test_person_says_where_compiled_code_lies(tmp_path: Path) -> None:
    assert asked_of_torch("early", {COMPILED: str(tmp_path / "mine")}) == str(tmp_path / "mine")


def asked_of_torch(when: str, env: dict[str, str]) -> str:
    cleared = {name: value for name, value in environment().items() if name != COMPILED}
    return subprocess.run(
        [sys.executable, "-c", WHERE_COMPILED, when],
        env=cleared | env, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
