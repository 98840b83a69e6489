"""The command line: `python -m hubsub COMMAND`, or `hubsub COMMAND`."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from . import MissingDriver, UnknownScheme, __version__
from .cli import bench, check, completion, dead_letters, publish, relay, requesting, tap
from .cli.arguments import command_line, port, seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names, by default that of the command line; return the exit code."""
    parser = command_line("Hierarchical publish/subscribe for asyncio.")
    parser.add_argument("--version", action="version", version=f"hubsub {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="see a hub at work on this machine's live figures",
        description="Publish this machine's live figures through a hub, and show them. Ctrl-C ends it.",
    )
    demo.add_argument(
        "--seconds",
        type=seconds,
        metavar="N",
        help="seconds after which to end (default: never on a terminal, else 10)",
    )
    demo.add_argument("--plain", action="store_true", help="print lines, as without a terminal, instead of a table")
    demo.add_argument(
        "--bridge",
        metavar="URL",
        help="exchange figures with every other demo at a broker, such as sqlite://demo.db, a file, or "
        "redis://localhost:6379",
    )
    demo.add_argument(
        "--web",
        type=port,
        metavar="PORT",
        help="show them in the browser, too, at this port of this machine; 0 takes a free one",
    )
    demo.set_defaults(run=_demo)
    for module in (tap, publish, requesting, relay, dead_letters, bench, check):
        module.add(commands)

    schema = commands.add_parser(
        "postgres-schema",
        help="print the SQL that creates or upgrades the tables of postgres-log://, for psql",
        description="Print the SQL that creates or upgrades the schema `hubsub`. A bridge runs it by itself if its role"
        " may; otherwise, run it as a role that may.",
    )
    schema.add_argument(
        "--grant",
        metavar="ROLE",
        action="append",
        default=[],
        help="grant this role the rights that a bridge needs; may be repeated",
    )
    schema.add_argument(
        "--grant-publish",
        metavar="ROLE",
        action="append",
        default=[],
        help="grant this role the right to call hubsub.publish, and no other; may be repeated",
    )
    schema.set_defaults(run=_postgres_schema)
    completion.add(commands)

    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:  # before the command itself took care of Ctrl-C
        return 130
    except BrokenPipeError:
        # The reader has gone, as in `| head`. Python would raise again when it flushes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from .cli import demo, demo_bridge
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"psutil", "rich"}:
            raise
        print("demo: needs psutil and rich: pip install 'hubsub[demo]'", file=sys.stderr)
        return 1
    bridge = None
    if arguments.bridge is not None:
        try:
            bridge = arguments.bridge, demo_bridge.adapter_of(arguments.bridge)
        except (MissingDriver, TypeError, UnknownScheme, ValueError) as error:
            print(f"demo: --bridge: {error}", file=sys.stderr)
            return 2
    page = None
    if arguments.web is not None:
        try:
            from .cli import demo_web

            page = demo_web.Page(arguments.web)
        except (MissingDriver, ModuleNotFoundError):
            print("demo: --web needs uvicorn, websockets and msgspec: pip install 'hubsub[demo]'", file=sys.stderr)
            return 1
        except OSError as error:
            print(f"demo: --web: port {arguments.web}: {error.strerror}; --web 0 takes a free one", file=sys.stderr)
            return 2
    try:
        demo.main(arguments.seconds, arguments.plain, bridge, page)
    except* OSError as errors:
        others = errors.split(_is_reader_gone)[1]
        if others is not None:
            raise others from None
        # Python would raise again when it flushes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _postgres_schema(arguments: argparse.Namespace) -> int:
    from .bridges.postgres import schema

    print(schema.script(arguments.grant, arguments.grant_publish), end="")
    return 0


def _is_reader_gone(error: BaseException) -> bool:
    """True if the reader of our output has gone, as in `| head`, or the terminal has."""
    return isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EIO)


if __name__ == "__main__":
    sys.exit(main())
