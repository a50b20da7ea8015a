"""Puts the status page together for one serving process, as the settings ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from follower.head import StoreHeads
from follower.logs.recent_errors import RecentErrors
from follower.readiness import FollowedNode
from follower.setting_parsers import node_names
from follower.settings import Settings, split_listen
from follower.status_page.report import PageSettings, StatusReport
from follower.status_page.site import OFF, StatusSite
from rpc.server.auth import Tokens
from rpc.server.server import Server

if TYPE_CHECKING:
    from follower.shared_store_heads import SharedStoreHeads


def open_status_page(
    settings: Settings,
    server: Server,
    heads: StoreHeads | SharedStoreHeads,
    followed: FollowedNode | None,
    errors: RecentErrors,
    address: str,
) -> StatusReport | None:
    """Serve the page from now on; None where it is off. `address`: the process' row in the fleet ("": none)."""
    mode = settings["status_page"]
    if mode == OFF:
        return None
    nodes = node_names(settings["node"])
    told = PageSettings(
        listen=settings["listen"],
        address=address,
        nodes=nodes.split(",") if nodes else (),
        state=settings["state"],
        workers=settings["workers"],
    )
    report = StatusReport(server, server.dispatcher.services, told, heads.last_head, followed, errors)
    names = [*settings["admin_hosts"].split(","), split_listen(settings["listen"])[0]]
    if address:
        names.append(split_listen(address)[0])
    tokens = Tokens(server.settings.jwt_secret, frozenset())
    server.add_pages(StatusSite(report, tokens, server.clients, mode, names).answer)
    return report
