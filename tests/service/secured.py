"""Certificates, and a broker that wants users and certificates, for the tests of security."""

from __future__ import annotations

import subprocess
from pathlib import Path

from servers import KafkaBroker, free_port

USER, PASSWORD, ENCODED = "alice", "hunter2/@:", "hunter2%2F%40%3A"  # characters that a URL gives a meaning
LISTENERS = {"tls": "SSL", "sasltls": "SASL_SSL", "saslplain": "SASL_PLAINTEXT"}
MECHANISMS = {
    "plain": f'PlainLoginModule required user_{USER}="{PASSWORD}";',
    "scram-sha-512": "ScramLoginModule required;",
}


def make_certificates(folder: Path, *names: str) -> None:
    """For each name ``NAME.pem``, signed by itself, ``NAME.key``, and both in ``NAME.both.pem``; of this machine."""
    for name in names:
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
        address = f"-addext subjectAltName=IP:127.0.0.1 -keyout {folder}/{name}.key -out {folder}/{name}.pem"
        subprocess.run(f"{command} {address}".split(), check=True, capture_output=True)
        pair = (folder / f"{name}.key").read_text() + (folder / f"{name}.pem").read_text()
        (folder / f"{name}.both.pem").write_text(pair)


class SecuredBroker(KafkaBroker):
    """Beside its open port: ``tls`` wants a client's certificate, ``sasltls`` and ``saslplain`` a user."""

    def __init__(self, libs: Path, folder: Path, certificates: Path) -> None:
        super().__init__(libs, folder)
        self.ports = {name: free_port() for name in LISTENERS}
        self.ports["plaintext"] = int(self.bootstrap.rpartition(":")[2])
        path = folder / "server.properties"
        settings = dict(line.split("=", 1) for line in path.read_text().splitlines())
        added = "".join(f",{name.upper()}://127.0.0.1:{self.ports[name]}" for name in LISTENERS)
        settings["listeners"] += added
        settings["advertised.listeners"] += added
        protocols = "".join(f",{name.upper()}:{protocol}" for name, protocol in LISTENERS.items())
        settings["listener.security.protocol.map"] += protocols
        settings |= _security(certificates)
        path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def format(self) -> None:
        """With a user for SCRAM."""
        super().format("--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]")


def _security(certificates: Path) -> dict[str, str]:
    module = "org.apache.kafka.common.security"
    return {
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": f"{certificates}/server.both.pem",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": f"{certificates}/client.pem",
        "listener.name.tls.ssl.client.auth": "required",
    } | {
        f"listener.name.{listener}.{mechanism}.sasl.jaas.config": f"{module}.{mechanism.partition('-')[0]}.{login}"
        for listener in ("sasltls", "saslplain")
        for mechanism, login in MECHANISMS.items()
    }
