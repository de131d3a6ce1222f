"""TLS as a client of a broker or a store: whose certificates are trusted, and which one is shown.

A URL says it by options of the same names everywhere:

``tls_ca``           PEM file of the certificates that are trusted; without it those that the system trusts
``tls_certificate``  PEM file of the client's own certificate, for a server that asks for one
``tls_key``          PEM file of that certificate's key, without a passphrase; without it in the certificate's file
``tls_hostname``     ``check`` (as without it), or ``ignore``: a certificate for another name is taken as well
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from monolith.errors import ConfigError

TLS_OPTIONS = ("tls_ca", "tls_certificate", "tls_key", "tls_hostname")
_HOSTNAME = ("check", "ignore")


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a URL's options; None: as the system has it."""

    shown: str  # the URL, for people
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, for a client. Raises ConfigError for a file that cannot be used, which it names."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(f"{self.shown}: tls_ca {self.ca} cannot be used: {error}; give a PEM file") from error
        context.check_hostname = self.check_hostname
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, password=lambda: "")
            except (OSError, ValueError) as error:
                files = f"tls_certificate {self.certificate}" + (f" and tls_key {self.key}" if self.key else "")
                raise ConfigError(
                    f"{self.shown}: {files} cannot be used: {error}; give PEM files that belong together"
                ) from error
        return context


def tls_of(options: Mapping[str, str], shown: str) -> Tls:
    """What ``options`` of the URL ``shown`` say. Raises ConfigError; whether files can be used says `Tls.context`."""
    hostname = options.get("tls_hostname", _HOSTNAME[0])
    if hostname not in _HOSTNAME:
        raise ConfigError(f"{shown}: tls_hostname is {hostname!r:.80}, allowed: {', '.join(_HOSTNAME)}")
    if "tls_key" in options and "tls_certificate" not in options:
        raise ConfigError(f"{shown}: tls_key is given without tls_certificate: give both, or neither")
    ca, certificate, key = (options.get(name) for name in TLS_OPTIONS[:3])
    return Tls(shown, ca, certificate, key, hostname == _HOSTNAME[0])
