"""`vllama certs`: makes the authority and the certificates with which balancers and workers authenticate each other."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vllama_balancer.certificates.authority import ROLES
from vllama_balancer.certificates.folder import AUTHORITY_DAYS, CERTIFICATE_DAYS, TOKEN, CertificateFolder
from vllama_balancer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status of the process."""
    arguments = _parser().parse_args(argv)
    try:
        print(arguments.run(arguments))
    except ConfigError as error:
        print(f"vllama certs: {error}", file=sys.stderr)
        return 1
    return 0


def _init(arguments: argparse.Namespace) -> str:
    CertificateFolder(arguments.folder).init(arguments.days)
    folder = arguments.folder
    return (
        f"made the authority {folder / 'ca.pem'} (its key stays here: {folder / 'ca-key.pem'})\n"
        f"made the token for joining {folder / TOKEN}\n"
        f"next: vllama certs issue {folder} balancer --host ADDRESS, and one for each worker's machine"
    )


def _issue(arguments: argparse.Namespace) -> str:
    certificate, key = CertificateFolder(arguments.folder).issue(
        arguments.name, arguments.hosts, arguments.days, arguments.role or ""
    )
    hosts = ", ".join(arguments.hosts or [arguments.name])
    authority = arguments.folder / "ca.pem"
    return f"for {hosts}, {arguments.days} days: --tls-cert {certificate} --tls-key {key} --tls-ca {authority}"


def _rotate(arguments: argparse.Namespace) -> str:
    names = CertificateFolder(arguments.folder).rotate(arguments.days, authority=arguments.authority)
    replaced = "replaced the authority; copy ca.pem to every machine before the certificates\n"
    issued = ", ".join(names) or "nothing, as nothing had been issued"
    return f"{replaced if arguments.authority else ''}issued anew: {issued}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vllama certs",
        description=__doc__,
        epilog="Example: vllama certs issue certs gpu7 --host 10.0.0.7",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="init | issue | rotate")
    init = commands.add_parser("init", help="make an authority and a token for joining")
    issue = commands.add_parser("issue", help="make a certificate for one machine")
    rotate = commands.add_parser("rotate", help="issue every certificate anew, for the same hosts")
    every = ((init, _init, AUTHORITY_DAYS), (issue, _issue, CERTIFICATE_DAYS), (rotate, _rotate, CERTIFICATE_DAYS))
    for command, run, days in every:
        command.set_defaults(run=run)
        command.add_argument("folder", type=Path, metavar="FOLDER", help="where the files are kept")
        command.add_argument("--days", type=_days, default=days, help=f"how long it is valid (default {days})")
    issue.add_argument("name", metavar="NAME", help="name of the files and of the certificate")
    issue.add_argument(
        "--host", dest="hosts", action="append", default=[], metavar="HOST",
        help="name or address under which the machine is reached (default NAME); repeatable",
    )  # fmt: skip
    issue.add_argument(
        "--role", choices=ROLES, metavar="ROLE",
        help=f"{', '.join(ROLES)} (default: the one with which NAME begins, else worker)",
    )  # fmt: skip
    rotate.add_argument("--ca", dest="authority", action="store_true", help="make a new authority first")
    return parser


def _days(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 36500:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days; give one from 1 to 36500")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
