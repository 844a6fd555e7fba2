"""How a Ray cluster is reached: addresses, tokens, TLS, versions; and what is said where it is not."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from jobspecs.cluster import Cluster
from jobspecs.errors import UsageError
from orchestrator import cluster
from orchestrator.cluster import connect
from orchestrator.cluster_address import given_address
from orchestrator.ray_cluster import start_ray
from tests.orchestrator.fake_dashboard import FakeDashboard

ABOUT = {"name": "digits", "spec_hash": "ab" * 8, "run_directory": "file:///runs/digits", "objective": "image_text"}


@pytest.fixture(autouse=True)
def _no_ray_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_option_counts_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert given_address(None) == "head:6379"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    assert given_address(None) == "http://head:8265"
    assert given_address("https://other") == "https://other"


def test_the_list_has_tandem_s_jobs_only_and_the_newest_first() -> None:
    with FakeDashboard() as dashboard:
        dashboard.add("digits-1", "STOPPED", ABOUT)
        dashboard.add("other", "RUNNING", {"name": "somebody else's"})
        dashboard.add("digits-2", "RUNNING", {**ABOUT, "s3_endpoint": "http://minio:9000"}, message="step 3 of 9")
        newest, oldest = connect(dashboard.url + "/").entries()
        assert (newest.submission_id, newest.status, newest.is_over) == ("digits-2", "RUNNING", False)
        assert (newest.s3_endpoint, newest.message, newest.started) == ("http://minio:9000", "step 3 of 9", 3.0)
        assert (oldest.submission_id, oldest.is_over) == ("digits-1", True)
        with pytest.raises(UsageError, match=r"other on .* is no job of Tandem's"):
            connect(dashboard.url).entry("other")
        with pytest.raises(UsageError, match=r"has no job digits-3. `tandem list`"):
            connect(dashboard.url).entry("digits-3")


@pytest.mark.parametrize("place", ["variable", "file", "home"])
def test_a_token_is_sent_where_it_is_asked_for(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if place == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    else:
        path = tmp_path / (".ray/auth_token" if place == "home" else "token")
        path.parent.mkdir(exist_ok=True)
        path.write_text("secret\n")
        if place == "file":
            monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    with FakeDashboard(token="secret") as dashboard:
        assert connect(dashboard.url).entries() == []
        assert dashboard.authorizations == [None, "Bearer secret", "Bearer secret"]
    with FakeDashboard() as open_to_all:
        connect(open_to_all.url)
        assert open_to_all.authorizations == [None]


def test_a_token_that_is_missing_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeDashboard(token="secret") as dashboard:
        with pytest.raises(UsageError, match=r"asks for a token. Set RAY_AUTH_TOKEN"):
            connect(dashboard.url)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "planted")
        with pytest.raises(UsageError, match=r"does not take this token") as error:
            connect(dashboard.url)
        assert "planted" not in str(error.value)


@pytest.mark.parametrize("version", ["2.9.3", "1.13.0", "", "nightly"])
def test_a_cluster_with_an_older_ray(version: str) -> None:
    with FakeDashboard(ray=version) as dashboard, pytest.raises(UsageError, match=r"runs Ray .* needs 2\.60 or newer"):
        connect(dashboard.url)


@pytest.mark.parametrize("version", ["2.60.1", "2.61.0rc0", "3.0.0.dev0"])
def test_a_cluster_with_a_newer_ray(version: str) -> None:
    with FakeDashboard(ray=version) as dashboard:
        assert connect(dashboard.url).version() == version


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_is_not_there(address: str) -> None:
    with pytest.raises(UsageError, match=rf"there is no Ray cluster at {address}. Start it, or correct the address"):
        connect(address)


def test_a_server_that_is_no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeDashboard() as dashboard:
        dashboard.status = 404
        with pytest.raises(UsageError, match=r"there is no Ray cluster at"):
            connect(dashboard.url)
        dashboard.status = 500
        with pytest.raises(UsageError, match=r"answered /api/version with HTTP 500: ValueError: broken. Its dashboard"):
            connect(dashboard.url)


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(cluster, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UsageError, match=r"gave no answer within"):
        connect(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_password_has_no_place_in_an_address() -> None:
    with pytest.raises(UsageError, match=r"holds no user or password") as error:
        connect("https://me:planted@head")
    assert "planted" not in str(error.value)


def test_over_tls_the_certificate_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, tmp_path / "key.pem")
    with FakeDashboard(tls=context) as dashboard:
        with pytest.raises(UsageError, match=r"certificate that is not trusted here. Set REQUESTS_CA_BUNDLE"):
            connect(dashboard.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        assert connect(dashboard.url).entries() == []


def certificate(folder: Path) -> Path:
    """One that this machine signed for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem"


# --- a driver's own way to the cluster ---


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.61.0\n"),
            r"another Ray .* 2\.61\.0",
        ),
        ("AuthenticationError", "does not let this process in without its token. Set RAY_AUTH_MODE=token"),
        (ConnectionError("no"), "there is no Ray cluster at RAY_ADDRESS=head:6379"),
    ],
)
def test_a_cluster_that_a_driver_can_t_join(
    error: Exception | str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import AuthenticationError

    def refuse(**_: object) -> None:
        raise AuthenticationError("no") if isinstance(error, str) else error

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.setattr("orchestrator.ray_cluster._knock", lambda address: None)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(UsageError, match=message):
        start_ray(Cluster())


def test_a_driver_needs_more_than_a_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(UsageError, match=r"is a dashboard, and a driver needs .* `tandem submit`"):
        start_ray(Cluster())
