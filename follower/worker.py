"""One serving process: builds everything that a follower is made of, serves, drains, ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from blockstore.background import in_background
from blockstore.errors import StoreUnavailable
from blockstore.open import open_store
from blockstore.store import META, ObjectStore, Store
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import NetworkRecord, load_network
from follower.administration.endpoint import FOLLOWER, administered, check_endpoint
from follower.administration.group import OwnProcess
from follower.administration.worker import WorkerControl
from follower.ahead.head_ahead import HeadAhead
from follower.ahead.peer_questions import give_questions
from follower.ahead.start_ahead import start_ahead
from follower.archives import objects_below, open_archives, warn_of_lacking
from follower.archives import register as register_archives
from follower.execution_stop import ExecutionStop, this_machine
from follower.executor.child import executor_of
from follower.extending.methods import load_methods
from follower.forwarding.lanes import NodeLanes
from follower.forwarding.read_through import LONGEST_WALK, ReadThrough
from follower.forwarding.shadow import Shadow
from follower.head import StoreHeads
from follower.lazy_objects import node_sources
from follower.logs.recent_errors import watch_log
from follower.membership import Membership, fleet_member
from follower.object_tier.open import (
    ObjectTier,
    is_shared,
    open_object_tier,
    probing,
    serve_peers,
    take_shards,
    tier_folder,
)
from follower.object_tier.open import register as register_tier
from follower.object_tier.ranges import register as register_ranges
from follower.object_tier.ranges import serve_ranges
from follower.readiness import FollowedNode, Freshness, ReadinessWatch, build_checks
from follower.settings import CannotRun, Settings, jwt_secret, reading, shared_options, split_listen
from follower.status_page.open import open_status_page
from follower.status_page.report import StatusReport
from follower.tracing.open import traced
from rpc.lookup.filters.filter_shares import FilterLimits
from rpc.lookup.self_check import CheckedExecutor, check_executed
from rpc.methods import register_all
from rpc.release import BUILD_INFO_DOC, agent, build_info
from rpc.server.dispatch import Dispatcher
from rpc.server.gate.gate import GateSettings
from rpc.server.gate.method_list import MethodList
from rpc.server.gate.shared_rates import SharedRates
from rpc.server.gate.tenants import Tenants
from rpc.server.gate.tls import ServerCertificate
from rpc.server.gate.token_bucket import MakeBucket, own_bucket
from rpc.server.limits import READ_ONLY, ServerSettings
from rpc.server.open_files import connections_within, raise_open_file_limit
from rpc.server.server import serve
from rpc.services import Services

if TYPE_CHECKING:
    from blockstore.archive.tier import Archives
    from blockstore.cid import Cid
    from blockstore.tier.sources import RankedSources
    from follower.shared_store_heads import SharedStoreHeads

log = logging.getLogger(__name__)

_STORE_WAIT: Final = 0.25
#: how long a follower may take after its start until it is not ready without a line in the log
_START_SECONDS: Final = 15.0


def tune_garbage_collector() -> None:
    """Have Python's cycle collector hardly ever look at what has stayed, and never at what is there from the start.

    Caches hold a million objects and none of them is in a cycle: looking through them costs a third of the time in
    which a large answer is made. To look at 10,000 new ones keeps the event loop for about 4 ms (100,000: 40 to 150 ms,
    while thousands of connections open or close). Those that stay are looked at again after 5,000,000.
    """
    gc.freeze()
    gc.set_threshold(10_000, 500, 100)


async def wait_for_store(settings: Settings, stopping: asyncio.Event) -> tuple[Store, NetworkRecord] | None:
    """Wait until the store exists, names its network and holds a head. None when `stopping` is set first.

    A follower may start before its bridge. Errors: every other StoreError (another schema, …).
    """
    last_reason = ""
    shared = shared_options(settings)
    while not stopping.is_set():
        store: Store | None = None
        try:
            store = await open_store(settings["store"], map_size=settings["map_size_gb"] << 30, shared=shared)
            network = await load_network(store)
            if network is None:
                reason = "it names no network yet"
            elif await store.row(META, b"", b"import") is not None:
                reason = "an import into it has not finished"
            elif await store.head() is None:
                reason = "it holds no head yet"
            else:
                return store, network
        except StoreUnavailable as error:
            reason = str(error)
        if store is not None:
            await store.close()
        if reason != last_reason:
            log.info("waiting for the store %s: %s", settings.shown("store"), reason)
            last_reason = reason
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _STORE_WAIT)
    return None


@dataclass(frozen=True, slots=True)
class Sources:
    """What a process that answers reads from: the store, the archives below it, a full node's `lanes` behind it."""

    store: Store
    network: NetworkRecord
    lanes: NodeLanes | None
    objects: Objects
    index: ChainIndex
    #: the store with its archives, past all caches
    below: ObjectStore
    archives: Archives | None = None
    tier: ObjectTier | None = None
    #: of a lazy state: the nodes that objects are fetched from
    nodes: RankedSources[Cid] | None = None

    @property
    def ranked(self) -> list[RankedSources[Any]]:
        """All that objects are read from, by rank."""
        found: list[RankedSources[Any]] = [] if self.tier is None else [self.tier.objects.sources]
        return found if self.nodes is None else [*found, self.nodes]

    async def close(self) -> None:
        """Close all of them."""
        if self.lanes is not None:
            await self.lanes.close()
        if self.tier is not None:
            await self.tier.close()
        if self.archives is not None:
            await self.archives.close()
        await self.store.close()


async def open_sources(settings: Settings, stopping: asyncio.Event, cache_bytes: int) -> Sources | None:
    """Open them when the store is ready; None when `stopping` is set first. `cache_bytes`: objects kept in memory.

    Errors: as `wait_for_store`.
    """
    archives = await open_archives(settings)
    opened = await wait_for_store(settings, stopping)
    if opened is None:
        if archives is not None:
            await archives.close()
        return None
    store, network = opened
    await warn_of_lacking(store, settings)
    lanes = NodeLanes.open(settings)
    reads_through = settings["read_through"]
    is_lazy = settings["state"] == "lazy" or reads_through
    nodes = node_sources(lanes.object_clients, settings["fetch_batch"]) if lanes is not None and is_lazy else None
    below = objects_below(store, archives, asks_nodes=nodes is not None)
    tier = await open_object_tier(settings, below)
    fetch = nodes.read if nodes is not None else None
    objects = Objects(tier.objects if tier is not None else below, cache_bytes=cache_bytes, fetch=fetch)
    index = ChainIndex(store, objects, network, longest_walk=LONGEST_WALK if reads_through else None)
    return Sources(store, network, lanes, objects, index, below, archives, tier, nodes)


def build_heads(store: Store, index: ChainIndex, settings: Settings) -> StoreHeads | SharedStoreHeads:
    """Where requests get their head: read anew by each, or on a shared store by the bounded-staleness rule."""
    if not store.url.startswith("cassandra://"):
        return StoreHeads(store, index)
    # imported here: the drivers take a third of a second
    from blockstore.cassandra.store import CassandraStore
    from follower.shared_store_heads import SharedStoreHeads

    assert isinstance(store, CassandraStore)
    heads = SharedStoreHeads(store, index, settings["delta_ms"], settings["epsilon_ms"])
    heads.start()
    return heads


def server_settings(settings: Settings) -> ServerSettings:
    """The limits of the server. Errors: CannotRun (the secret's file)."""
    secret = jwt_secret(settings)
    check_endpoint(settings, FOLLOWER)
    make_bucket = bucket_maker(settings)
    return ServerSettings(
        max_body_bytes=settings["max_body_mb"] << 20,
        max_ws_message_bytes=settings["max_ws_message_mb"] << 20,
        max_answer_bytes=settings["max_answer_mb"] << 20,
        answer_cache_bytes=settings["answer_cache_mb"] << 20,
        gzip_from_bytes=settings["gzip_from_kb"] << 10,
        server_timing=settings["server_timing"],
        request_log_level=getattr(logging, settings["request_log_level"].upper(), 0),
        max_batch_answer_bytes=settings["max_batch_answer_mb"] << 20,
        memory_budget_bytes=settings["memory_budget_mb"] << 20,
        memory_budget_bytes_per_client=settings["memory_budget_mb_per_client"] << 20,
        min_transfer_rate=settings["min_transfer_kb_per_second"] << 10,
        max_batch=settings["max_batch"],
        max_in_flight=settings["max_in_flight"],
        max_in_flight_per_client=settings["max_in_flight_per_client"],
        max_waiting=settings["max_waiting"],
        max_waiting_per_client=settings["max_waiting_per_client"],
        max_channels=settings["max_channels"],
        max_channels_per_client=settings["max_channels_per_client"],
        max_connections=settings["max_connections"],
        max_connections_per_client=settings["max_connections_per_client"],
        scan_parallel=settings["scan_parallel"],
        heavy_parallel=settings["heavy_parallel"],
        execute_parallel=settings["execute_parallel"],
        lane_calls=settings["lane_calls"],
        lane_calls_per_client=settings["lane_calls_per_client"],
        request_seconds=settings["request_seconds"],
        batch_seconds=settings["batch_seconds"],
        jwt_secret=secret,
        default_permissions=READ_ONLY if settings["default_permission"] == "read" else frozenset(),
        gate=gate_settings(settings),
        tenants=open_tenants(settings, make_bucket),
        make_bucket=make_bucket,
        conn_per_minute=settings["conn_per_minute"],
        trusted_proxies=tuple(settings["trusted_proxies"].split(",")),
        proxy_protocol=settings["proxy_protocol"],
        cors_origin=settings["cors_origin"],
        cors_preflight=settings["cors_preflight"],
    )


def server_certificate(settings: Settings) -> ServerCertificate | None:
    """That of `tls_listen`; None where nothing is served with TLS. Errors: CannotRun."""
    if not settings["tls_listen"]:
        if settings["tls_client_ca"]:
            raise CannotRun("tls_client_ca needs tls_listen")
        return None
    if not settings["tls_cert"] or not settings["tls_key"]:
        raise CannotRun("tls_listen needs tls_cert and tls_key")
    authorities = Path(settings["tls_client_ca"]) if settings["tls_client_ca"] else None
    with reading("tls_cert, tls_key, tls_client_ca:", settings["tls_cert"]) as file:
        return ServerCertificate(file, Path(settings["tls_key"]), authorities)


def bucket_maker(settings: Settings) -> MakeBucket:
    """Makes the buckets of rates: of this process, or of all that share `rates_file`. Errors: CannotRun (the file)."""
    path = settings["rates_file"]
    if not path:
        return own_bucket
    with reading("rates_file", path) as file:
        return SharedRates(file).bucket


def open_tenants(settings: Settings, make_bucket: MakeBucket = own_bucket) -> Tenants | None:
    """The tenants that the settings name. Errors: CannotRun (their file)."""
    path = settings["tenants_file"]
    if not path:
        return None
    with reading("tenants_file", path) as file:
        tenants = Tenants(file, make_bucket)
        tenants.load()
    return tenants


def gate_settings(settings: Settings) -> GateSettings | None:
    """The quotas, lists of methods and look-backs; None where no setting asks for any. Errors: CannotRun (a file)."""
    path = settings["method_filter_file"]
    methods = MethodList()
    if path:
        with reading("method_filter_file", path) as file:
            methods = MethodList.parse(file.read_text().splitlines())
    found = GateSettings(
        rate_limit=settings["rate_limit"],
        rate_limit_per_client=settings["rate_limit_per_client"],
        per_conn_rate_limit=settings["per_conn_rate_limit"],
        api_max_lookback_seconds=settings["api_max_lookback_seconds"],
        api_wait_lookback_limit=settings["api_wait_lookback_limit"],
        max_wait_confidence=settings["max_wait_confidence"],
        methods=methods,
    )
    return None if found == GateSettings() and not settings["tenants_file"] else found


def filter_limits(settings: Settings) -> FilterLimits:
    """The limits of Ethereum filters and subscriptions."""
    return FilterLimits(
        settings["max_filters"],
        settings["filter_ttl_seconds"],
        settings["filters_per_client"],
        settings["filters_per_connection"],
        settings["filters_per_network"],
    )


def network_reader(services: Services) -> Callable[[], Awaitable[None]]:
    """Reads the network's record anew: an upgrade is announced, or found, while followers serve."""

    async def read() -> None:
        record = await load_network(services.store)
        if record is not None and record != services.network:
            log.warning("the upgrade schedule has changed: %s", record.upgrades[-3:])
            services.network.take_upgrades(record)

    return read


def before_new_head(services: Services) -> Callable[[], Awaitable[None]]:
    """What is done before a head is served for the first time. Errors: StoreError."""
    read_network = network_reader(services)

    async def prepare() -> None:
        await read_network()
        await check_executed(services)

    return prepare


async def run_worker(settings: Settings, *, started: Callable[[str], None] | None = None) -> int:
    """Serve until SIGINT or SIGTERM, then drain. `started` is called with the URL once requests are taken."""
    check_endpoint(settings, FOLLOWER)
    certificate = server_certificate(settings)
    register_all()
    load_methods()
    tune_garbage_collector()
    errors = watch_log()
    member = fleet_member(settings, agent())
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    hurry = asyncio.Event()

    def on_signal() -> None:
        # the second one asks not to wait for balancers
        (hurry if stopping.is_set() else stopping).set()

    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, on_signal)

    sources = await open_sources(settings, stopping, settings["object_cache_mb"] << 20)
    if sources is None:
        return 0
    store, network, lanes = sources.store, sources.network, sources.lanes
    objects, index = sources.objects, sources.index
    heads = build_heads(store, index, settings)
    followed = FollowedNode(lanes.watch_client) if lanes is not None else None
    services = Services(
        store=store,
        index=index,
        objects=objects,
        network=network,
        head_source=heads,
        node=lanes.forward if lanes is not None else None,
        mempool=lanes.mempool if lanes is not None else None,
        agent=agent(),
        checks=build_checks(
            heads,
            followed,
            Freshness(
                settings["ready_lag_epochs"],
                settings["ready_head_age_epochs"],
                network.block_delay,
                settings["lease_seconds"],
            ),
        ),
        extra={"eth_filter_limits": filter_limits(settings), "execution_gas_cap": settings["execution_gas_cap"]},
    )
    heads.newest.before_new_head = before_new_head(services)
    host, port = split_listen(settings["listen"])
    watchers = [in_background(followed.watch(), "the watch of the followed node")] if followed is not None else []
    if lanes is not None:
        watchers.append(in_background(lanes.forward.watch(), "the watch of the full nodes' heads"))
    part: Membership | None = None
    page: StatusReport | None = None
    executing = contextlib.AsyncExitStack()

    try:
        await executing.enter_async_context(probing(sources.ranked))
        executor = await executing.enter_async_context(executor_of(settings))
        stop_of_execution: ExecutionStop | None = None
        if executor is not None:
            checked = services.executor = CheckedExecutor(executor, services)
            stop_of_execution = ExecutionStop(store, checked, this_machine())
            await stop_of_execution.look()
            services.checks.fresh["execution"] = stop_of_execution.check
        limits = server_settings(settings)
        files = raise_open_file_limit()
        limits = replace(limits, max_connections=connections_within(files, limits.max_connections))
        dispatcher = Dispatcher(services, settings=limits)
        if is_shared(store.url) and settings["start_ahead_seconds"]:
            peers = sources.tier.peers if sources.tier is not None else ()
            folder = tier_folder(settings)
            await start_ahead(dispatcher, settings["start_ahead_seconds"], folder, executing, peers=peers)
        server = await serve(services, host, port, dispatcher=dispatcher)
        if certificate is not None:
            await server.listen(*split_listen(settings["tls_listen"]), tls=certificate.context)
            watchers.append(in_background(certificate.watch(), "the watch of the certificate"))
        readiness = ReadinessWatch(server.health, heads, start_seconds=_START_SECONDS)
        readiness.register(server.metrics)
        if lanes is not None:
            lanes.forward.register(server.metrics)
            if settings["read_through"]:
                behind = server.dispatcher.read_through = ReadThrough(
                    lanes.forward,
                    services,
                    fill_epochs=settings["read_through_fill_epochs"],
                    link_epochs=settings["read_through_link_epochs"],
                )
                behind.register(server.metrics)
            if settings["shadow"]:
                shadow = server.dispatcher.shadow = Shadow(lanes.forward, settings["shadow"])
                shadow.register(server.metrics)
                executing.push_async_callback(shadow.close)
        if limits.tenants is not None:
            watchers.append(in_background(limits.tenants.watch(), "the watch of the tenants"))
        if sources.archives is not None:
            register_archives(server.metrics, sources.archives)
        given = serve_peers(settings, server, objects, sources.tier)
        give_questions(settings, server)
        register_tier(server.metrics, sources.tier, sources.nodes, given)
        await executing.enter_async_context(traced(settings, server, network.name, store, sources.ranked))
        register_ranges(server.metrics, serve_ranges(settings, server, services, sources.below))
        if (receiver := take_shards(settings, server, store, sources.tier, server.metrics)) is not None:
            executing.push_async_callback(receiver.close)
        server.metrics.info("follower_build_info", BUILD_INFO_DOC, build_info())
        if executor is not None and stop_of_execution is not None:
            executor.register(server.metrics)
            stop_of_execution.register(server.metrics)
            watchers.append(in_background(stop_of_execution.run(), "the watch of execution"))
        watchers.append(in_background(readiness.run(), "the watch of readiness"))
        if settings["read_ahead_actors"]:
            # on this machine's disk an actor is found as fast by who asks for it
            actors = settings["read_ahead_actors"] if sources.ranked else 0
            ahead = HeadAhead(services, actors, heads.last_head)
            ahead.register(server.metrics)
            heads.newest.after_new_head = ahead.begin
            watchers.append(in_background(ahead.run(), "reading ahead"))
        if server.dispatcher.answers is not None:
            watchers.append(
                in_background(server.dispatcher.answers.watch(heads.last_head), "the watch of kept answers")
            )
        control = WorkerControl(
            server, route=None if lanes is None else lanes.forward, tier=sources.tier, stop=stopping.set
        )
        executing.callback(control.close)
        own = [OwnProcess("follower", control.methods)]
        await executing.enter_async_context(administered(settings, FOLLOWER, own))
        page = open_status_page(settings, server, heads, followed, errors, member.address if member else "")
        part = Membership(settings, server, store, member)
        await part.join()
        if started is not None:
            started(f"http://{settings['listen']}/rpc/v1")
        await stopping.wait()
        await server.stop(await part.leave(hurry))
    finally:
        await heads.close()
        if part is not None:
            await part.close()
        if page is not None:
            await page.close()
        for watcher in watchers:
            watcher.cancel()
        await executing.aclose()
        await sources.close()
    return 0
