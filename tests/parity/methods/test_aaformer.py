"""AAFormer against the fact sheet's definition of it, see the kit's README: there is no published code."""

from functools import cache

import torch
from torch import nn

from model.backbones.vit import LAYER_NORM_EPS, Block
from model.methods.aaformer import sight, similarities, sinkhorn
from tests.parity.methods.kit import Golden

golden = Golden("aaformer")


def plan(iterations):
    return sinkhorn(golden.input("scores"), golden.meta["eps"], golden.meta[iterations])


@golden.array(r"sinkhorn\.(plan|plan_100|part_sums|owner)")
def transported(name):
    if name == "plan_100":
        return plan("converged_iterations")
    found = plan("sinkhorn_iterations")
    return {"plan": found, "part_sums": found.sum(2), "owner": found.argmax(1)}[name]


@cache
def passed():
    """Scores, owners and tokens of each block, and the final tokens with their gradient by the input."""
    meta, state = golden.meta, golden.state()
    x = start = golden.input("tokens").requires_grad_()
    found = {}
    for number in range(meta["blocks"]):
        block = Block(meta["dim"], meta["heads"])
        prefix = f"blocks.{number}."
        block.load_state_dict({k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)})
        with torch.no_grad():
            scores = similarities(block, x, meta["parts"])
            owners = sinkhorn(scores, meta["eps"], meta["sinkhorn_iterations"]).argmax(1)
        x = block(x, sight(owners, meta["parts"]))
        found |= {f"block{number}.scores": scores, f"block{number}.owner": owners, f"block{number}.out": x}
    norm = nn.LayerNorm(meta["dim"], LAYER_NORM_EPS)
    norm.load_state_dict({"weight": state["norm.weight"], "bias": state["norm.bias"]})
    tokens = norm(x)[:, : 1 + meta["parts"]]
    (gradient,) = torch.autograd.grad((tokens * golden.input("cotangent")).sum(), start)
    return found | {"final.tokens": tokens, "final.feature": tokens.flatten(1), "final.grad_tokens": gradient}


@golden.array(r"(block\d\.(?:scores|owner|out)|final\.(?:tokens|feature|grad_tokens))")
def computed(name):
    return passed()[name]


test_aaformer = golden.test()
