"""A small `curl` for VMs on a computer that has none: HTTP, HTTPS with -k, the options that scripts use.

Standard library only. An option that it does not know ends it with curl's own exit code 2.
"""

from __future__ import annotations

import argparse
import http.client
import ssl
import sys
import time
from urllib.parse import urlsplit

EXIT_USAGE, EXIT_SCHEME, EXIT_CONNECT, EXIT_HTTP, EXIT_WRITE, EXIT_TIMEOUT = 2, 1, 7, 22, 23, 28
NO_LIMIT_S = 300.0


def main() -> None:
    """Fetch one URL as the arguments say."""
    options = _parse(sys.argv[1:])
    tries = 1 + options.retry
    while True:
        tries -= 1
        code = _fetch(options)
        if code == 0 or tries == 0:
            sys.exit(code)
        time.sleep(options.retry_delay)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="curl", allow_abbrev=False)
    parser.add_argument("url")
    for flags in (
        ("-s", "--silent"),
        ("-S", "--show-error"),
        ("-f", "--fail"),
        ("-L", "--location"),
        ("-k", "--insecure"),
    ):
        parser.add_argument(*flags, action="store_true")
    parser.add_argument("-i", "--include", action="store_true")
    parser.add_argument("--fail-with-body", action="store_true")
    parser.add_argument("--retry-connrefused", "--retry-all-errors", action="store_true")
    parser.add_argument("-N", "--no-buffer", action="store_true")
    parser.add_argument("-o", "--output", default="-")
    parser.add_argument("-w", "--write-out", default="")
    parser.add_argument("-X", "--request", default="")
    parser.add_argument("-H", "--header", action="append", default=[])
    parser.add_argument("-d", "--data", "--data-raw", "--data-binary", dest="data")
    parser.add_argument("-m", "--max-time", type=float, default=NO_LIMIT_S)
    parser.add_argument("--connect-timeout", type=float)
    parser.add_argument("--retry", type=int, default=0)
    parser.add_argument("--retry-delay", type=float, default=1.0)
    return parser.parse_args(arguments)


def _fetch(options: argparse.Namespace) -> int:
    url = urlsplit(options.url if "://" in options.url else f"http://{options.url}")
    if url.scheme not in ("http", "https") or url.hostname is None:
        return _complain(options, EXIT_SCHEME, f"Protocol {url.scheme!r} not supported")
    headers = dict(_header(line) for line in options.header)
    body = options.data.encode() if options.data is not None else None
    if body is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    method = options.request or ("GET" if body is None else "POST")
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    connection = _connection(options, url.scheme, url.hostname, url.port)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        text = response.read()
    except TimeoutError:
        return _complain(options, EXIT_TIMEOUT, "Operation timed out", options.write_out)
    except (OSError, http.client.HTTPException) as error:
        reason = f"Failed to connect to {url.hostname} port {url.port or 80}: {error}"
        return _complain(options, EXIT_CONNECT, reason, options.write_out)
    finally:
        connection.close()
    failed = response.status >= 400 and (options.fail or options.fail_with_body)
    if options.include:
        head = "".join(f"{name}: {value}\r\n" for name, value in response.getheaders())
        text = f"HTTP/1.1 {response.status} {response.reason}\r\n{head}\r\n".encode() + text
    if not failed or options.fail_with_body:
        _write(options.output, text)
    _write_out(options.write_out, response.status)
    if failed:
        reason = f"The requested URL returned error: {response.status}"
        return _complain(options, EXIT_HTTP, reason)
    return 0


def _connection(
    options: argparse.Namespace, scheme: str, host: str, port: int | None
) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port or 80, timeout=options.max_time)
    context = ssl.create_default_context()
    if options.insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port or 443, timeout=options.max_time, context=context)


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _write(target: str, text: bytes) -> None:
    if target == "-":
        sys.stdout.buffer.write(text)
        sys.stdout.flush()
        return
    try:
        with open(target, "wb") as file:
            file.write(text)
    except OSError:
        sys.exit(EXIT_WRITE)


def _write_out(template: str, status: int) -> None:
    text = template.replace("%{http_code}", f"{status:03}").replace(
        "%{response_code}", f"{status:03}"
    )
    sys.stdout.write(text.replace("\\n", "\n"))
    sys.stdout.flush()


def _complain(options: argparse.Namespace, code: int, reason: str, template: str = "") -> int:
    _write_out(template, 0)
    if not options.silent or options.show_error:
        print(f"curl: ({code}) {reason}", file=sys.stderr)
    return code
