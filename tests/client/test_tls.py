"""Encrypted channels: to whom the client talks, and to whom it does not."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scripted_server import scripted_server

from loradock.client import TLS, Client, Unavailable


def certificate(name, address=None):
    """Make a key and a certificate that vouches for itself, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    names = [x509.DNSName(name), *([x509.IPAddress(ip_address(address))] if address else [])]
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(minutes=5))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private, made.public_bytes(serialization.Encoding.PEM)


def test_known_server():
    key, chain = certificate("loradock.test", "127.0.0.1")
    with scripted_server(grpc.ssl_server_credentials([(key, chain)])) as server:
        with Client(server.address, tls=TLS(chain), token="secret") as client:
            client.adapters.get("a")
        assert server.calls[0].metadata["authorization"] == "Bearer secret"


def test_server_of_another_name():
    key, chain = certificate("loradock.test")
    with scripted_server(grpc.ssl_server_credentials([(key, chain)])) as server:
        with Client(server.address, tls=TLS(chain)) as client, pytest.raises(Unavailable):
            client.adapters.get("a")
        with Client(server.address, tls=TLS(chain, server_name="loradock.test")) as client:
            client.adapters.get("a")


def test_unknown_server_gets_no_token():
    key, chain = certificate("loradock.test", "127.0.0.1")
    _, other = certificate("loradock.test", "127.0.0.1")
    with scripted_server(grpc.ssl_server_credentials([(key, chain)])) as server:
        for tls in (TLS(other), True):
            with (
                Client(server.address, tls=tls, token="secret") as client,
                pytest.raises(Unavailable),
            ):
                client.adapters.get("a")
        assert not server.calls


def test_both_prove_who_they_are():
    key, chain = certificate("loradock.test", "127.0.0.1")
    mine, my_chain = certificate("me")
    credentials = grpc.ssl_server_credentials([(key, chain)], my_chain, require_client_auth=True)
    with scripted_server(credentials) as server:
        with Client(server.address, tls=TLS(chain)) as client, pytest.raises(Unavailable):
            client.adapters.get("a")
        with Client(server.address, tls=TLS(chain, mine, my_chain)) as client:
            client.adapters.get("a")


def test_private_key_is_not_shown():
    assert "very secret" not in repr(TLS(private_key=b"very secret"))
