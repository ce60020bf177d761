"""What a channel is made with: credentials and options, the same for both clients."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from loradock.client._errors import InvalidRequest
from loradock.client._policy import service_config

DEFAULT_ADDRESS = "127.0.0.1:7431"
DEFAULT_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_PORT = 65_535
WITHOUT_PORT = ("unix:", "unix-abstract:", "vsock:")
KEEPALIVE_S = 60  # not below: servers answer faster pings with GOAWAY

# What health is asked of. Inference goes where a server as a whole serves; the rest goes where its
# registry does, for what a server waits for before it is ready may have to come by that.
WHOLE_SERVER, REGISTRY = "", "loradock.v1.RegistryService"
# By which a server is looked at and steered, whether it takes part in traffic or not.
ALSO_TO_THE_UNHEALTHY = ("grpc.inhibit_health_checking", 1)

Token = str | Callable[[], str]
ChannelOptions = list[tuple[str, str | int]]


@dataclass(frozen=True, slots=True)
class TLS:
    """An encrypted channel; the system's roots unless others are given. All are PEM."""

    root_certificates: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)
    certificate_chain: bytes | None = None
    server_name: str | None = None  # if it is not the address's


def channel_credentials(
    address: str, *, tls: TLS | bool, token: Token | None, insecure: bool
) -> grpc.ChannelCredentials | None:
    """Give the channel's credentials; None is plain text, by which no token leaves the host."""
    if tls is not False:
        given = TLS() if tls is True else tls
        return grpc.ssl_channel_credentials(
            given.root_certificates, given.private_key, given.certificate_chain
        )
    if token is not None and not insecure and not is_loopback(address):
        raise InvalidRequest(
            f"the token would go to {address} in plain text: give tls=True, or insecure=True if "
            "the network is trusted",
            reason="INVALID_FIELD",
            metadata={"field": "tls"},
        )
    return None


def check_address(address: str) -> None:
    """Refuse a web address, and a port that there can't be: gRPC would dial what is left of it."""
    if not address or address.startswith(("http://", "https://")):
        raise _no_address(f"{address!r} is no HOST:PORT, as in {DEFAULT_ADDRESS}")
    if address.startswith(WITHOUT_PORT):
        return
    for place in address.split(","):
        port = place.rpartition(":")[2]
        if port.isdecimal() and int(port) > MAX_PORT:
            raise _no_address(f"there is no port {port}, as in {place}: the last is {MAX_PORT}")


def _no_address(why: str) -> InvalidRequest:
    return InvalidRequest(f"address: {why}", reason="INVALID_FIELD", metadata={"field": "address"})


def is_loopback(address: str) -> bool:
    """Tell whether an address stays on this host."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].removeprefix("ipv4:").removeprefix("ipv6:").strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def channel_options(max_message_bytes: int, tls: TLS | bool, health_name: str) -> ChannelOptions:
    """Give the options of a channel to where what health knows by that name is serving."""
    options: ChannelOptions = [
        ("grpc.service_config", service_config(health_name)),
        ("grpc.enable_retries", 1),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),  # a server that restarted is found soon
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 0),
    ]
    if isinstance(tls, TLS) and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options
