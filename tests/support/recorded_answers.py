"""The recorded answers as a judge: a server is asked every recorded call that needs no full node."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from blockstore.cid import parse
from chain.eth.types import hash_of
from chain.tipset import TipsetKey
from follower.commands.comparison import compare, read_records
from tests.support.recorded import recorded

#: the property of a test report that counts them
ANSWERS_COMPARED: Final = "recorded answers compared"
#: the property that tells how many tipsets were executed, and which were left out
TIPSETS_EXECUTED: Final = "tipsets executed"
#: calls that are left out: a pattern for the method and, behind a space, the parameters; and why
LEFT_OUT: Final = {
    r"Filecoin\.(Version|Discover|SyncState) |[Cc]lientVersion |eth_syncing ": "a node tells of itself",
    r"eth_(gasPrice|maxPriorityFeePerGas) |Filecoin\.GasEstimate": "a node draws it anew each time",
    r'Filecoin\.MpoolGetNonce |"pending"': "it depends on the mempool",
    r"eth_(call|estimateGas) ": "a virtual machine answers it",
    r"trace_": "a virtual machine answers it; traces that a bridge records are compared apart",
    r"Filecoin\.F3": "the node's own instance of F3 answers it",
    r"Filecoin\.MinerGetBaseInfo ": "it draws challenges of proofs, which a full node does",
}
#: how many calls of `rpc.jsonl.zst` are compared on each chain, at least
COMPARED: Final = {"devnet": 38_301, "upgrades": 55_021, "busy": 69_014}


def left_out(folder: str) -> str:
    """The calls of a chain that are left out, as one pattern: also the head by its own hash, which is not executed."""
    heads = read_records(recorded(f"{folder}/rpc.jsonl.zst"), re.compile(r"Filecoin\.ChainHead$"))
    head = TipsetKey.of(parse(cid["/"]) for cid in next(heads).answer["result"]["Cids"])
    return "|".join([*LEFT_OUT, f"0x{hash_of(head.cid).hex()}"])


async def assert_recorded_answers(target: str, folder: str, tell: Callable[[str, object], None]) -> None:
    """Every recorded answer of a chain is equal, errors to the letter of their texts.

    `tell` is pytest's `record_property`: the summary of the run says how many were compared.
    """
    report = await compare(target, recorded(f"{folder}/rpc.jsonl.zst"), exclude=left_out(folder))
    tell(ANSWERS_COMPARED, report.total)
    assert not report.differences, "\n".join(map(str, report.differences[:5]))
    assert not report.texts, "\n".join(map(str, report.texts[:5]))
    assert report.equal == report.total >= COMPARED[folder]
