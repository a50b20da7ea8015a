"""Which heads of a node may be published: the head never goes back, and nothing that is final is reverted.

1. An ancestor of our head is never published: the node that shows it is behind, and is waited for.
2. A lighter head of another node than the one our head came from waits, for that node may be catching up.
3. A reorg that reverts what is final (by F3's certificate, else what lies 900 epochs back) is refused until an
   operator permits it, once.
"""

from __future__ import annotations

import base64
import logging
from typing import Any, Final

import orjson

from blockstore.store import META, RECORDED, Batch, Store, TipsetRef
from chain.index.recorded_answers import F3_CERTIFICATE
from chain.tipset import Tipset, TipsetKey
from leader_bridge.clock import monotonic
from leader_bridge.follow.head_path import HeadPath, PathFinder
from leader_bridge.store.tipset_writer import TipsetWriter

log = logging.getLogger(__name__)

#: epochs after which the expected consensus is final (Lotus `policy.ChainFinality`)
CHAIN_FINALITY: Final = 900
#: META row: epoch and key of the newest tipset of the published chain that F3 has finalized
FINAL: Final = b"final_tipset"


class NodeBehind(Exception):
    """The node's head is behind ours. `seconds` is how long that has been so."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the node has been behind our head for {seconds:.0f} s")
        self.seconds = seconds


class ReorgBelowFinality(Exception):
    """The node's chain leaves ours below what is final."""


class ReorgPermit:
    """An operator's permission for one reorg below finality. One a process: it outlives a leader's term."""

    def __init__(self, is_given: bool = False) -> None:
        self.is_given = is_given


class HeadRules:
    """Judges heads by the chain of the head that was published last, which `follow_head` names.

    `lagging_node_grace_seconds` is how long rule 2 waits.
    """

    def __init__(
        self,
        store: Store,
        writer: TipsetWriter,
        paths: PathFinder,
        permit: ReorgPermit,
        *,
        lagging_node_grace_seconds: float,
    ) -> None:
        self._store = store
        self._writer = writer
        self._paths = paths
        self._permit = permit
        self._grace_seconds = lagging_node_grace_seconds
        #: the newest tipset of our chain that F3 has finalized
        self._final: TipsetRef | None = None
        self._head: TipsetRef | None = None
        #: the node that our head was taken from
        self._head_from = ""
        #: the node that is behind, and since when
        self._behind: tuple[str, float] | None = None

    @property
    def waits_for_node(self) -> bool:
        """Whether the node that is followed is behind us."""
        return self._behind is not None

    async def load(self, head: TipsetRef | None) -> None:
        """Start from the head log's head and from what was final when it was published.

        Errors: StoreError, NotAvailableYet, NoSource.
        """
        if head is None or (self._head is not None and self._head.key == head.key):
            return
        value = await self._store.row(META, b"", FINAL)
        if value is not None:
            epoch, key = orjson.loads(value)
            await self._raise_final(TipsetRef(epoch, bytes.fromhex(key)), head)
        await self._note_certificate(head)
        self._head = head

    async def follow_head(self, source_name: str, head: TipsetRef, path: HeadPath | None) -> None:
        """The node's head is ours now; `path` led to it (None: it was ours before)."""
        self._behind = None
        self._head_from = source_name
        if path is not None and self._is_below_finality(path):
            log.warning("the permission for a reorg below finality is used up")
            self._permit.is_given = False
            assert path.common is not None
            if self._final is not None and self._final.height > path.common.height:
                self._final = None
        self._head = head
        await self._note_certificate(head)

    async def _note_certificate(self, head: TipsetRef) -> None:
        """Raise the final tipset to that of the certificate recorded with a head."""
        recorded = await self._store.row(RECORDED, TipsetKey(head.key).cid, F3_CERTIFICATE)
        final = None if recorded is None else finalized_by(orjson.loads(recorded))
        if final is not None and await self._raise_final(final, head):
            batch = Batch()
            batch.put(META, b"", FINAL, orjson.dumps([final.height, final.key.hex()]))
            await self._store.write(batch)

    async def _raise_final(self, final: TipsetRef, head: TipsetRef) -> bool:
        """Take a tipset for final if it is newer than the one known and an ancestor of our head; whether it was."""
        if self._final is not None and final.height <= self._final.height:
            return False
        if not await self._paths.is_ancestor(final, head):
            log.warning("a tipset of epoch %d is said to be final by F3 and is not on our chain", final.height)
            return False
        self._final = final
        return True

    def final_epoch(self) -> int:
        """The newest epoch of our chain that must not be reverted; -1 for none."""
        f3 = -1 if self._final is None else self._final.height
        return -1 if self._head is None else max(f3, self._head.height - CHAIN_FINALITY)

    async def check_target(self, source_name: str, target: Tipset) -> None:
        """Apply rules 1 and 2 to a head that a node shows. Errors: NodeBehind."""
        head = self._head
        assert head is not None
        is_same_chain = await self._paths.is_ancestor(TipsetRef(target.height, target.key), head)
        if not is_same_chain:
            (ours,) = await self._writer.tipsets([TipsetKey(head.key)])
            if target.parent_weight >= ours.parent_weight or source_name == self._head_from:
                return
        now = monotonic()
        if self._behind is None or self._behind[0] != source_name:
            self._behind = (source_name, now)
            log.info(
                "%s is behind us (epoch %d, ours %d): our head stays until it has caught up",
                source_name,
                target.height,
                head.height,
            )
        waited = now - self._behind[1]
        if is_same_chain or waited < self._grace_seconds:
            raise NodeBehind(waited)
        log.warning("%s has stayed on a lighter chain for %.0f s: its head is followed", source_name, waited)

    def lowest_revert(self) -> int:
        """The lowest epoch that a path may lead back to: -1 while an operator permits any."""
        return -1 if self._permit.is_given else self.final_epoch()

    def check_path(self, source_name: str, path: HeadPath) -> None:
        """Apply rule 3. Errors: ReorgBelowFinality."""
        if not self._is_below_finality(path):
            return
        assert path.common is not None
        text = f"{source_name} is on a chain that leaves ours at epoch {path.common.height}, below the final epoch "
        if not self._permit.is_given:
            raise ReorgBelowFinality(f"{text}{self.final_epoch()}")
        log.warning("%s%d: an operator has permitted it", text, self.final_epoch())

    def _is_below_finality(self, path: HeadPath) -> bool:
        return bool(path.reverts) and path.common is not None and path.common.height < self.final_epoch()


def finalized_by(certificate: Any) -> TipsetRef | None:
    """The tipset that an F3 certificate (the JSON answer of F3GetLatestCertificate) finalizes, or None."""
    try:
        last = certificate["ECChain"][-1]
        key = TipsetKey(base64.b64decode(last["Key"], validate=True))
        return TipsetRef(int(last["Epoch"]), key) if key.cids else None
    except (TypeError, LookupError, ValueError):
        return None
