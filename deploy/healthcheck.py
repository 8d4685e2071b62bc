"""The container's health check: whether the sidecar answers. Exit status 0 or 1.

Any answer below 500 counts: with users configured, the page asks for a password and is well.
``HEALTHCHECK_URL`` replaces the address, for a server with TLS: https://127.0.0.1:8080/-/healthy.
"""

import os
import ssl
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 3.0


def main() -> int:
    port = os.environ.get("SENTINEL_EMITTER_PORT", "8080")
    url = os.environ.get("HEALTHCHECK_URL", f"http://127.0.0.1:{port}/-/healthy")
    if not url.startswith(("http://", "https://")):
        print(f"HEALTHCHECK_URL {url!r} is no http(s) address")
        return 1
    # It asks itself: whose certificate it is, it need not be told. Nor is a proxy in between.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except OSError as error:
        print(f"{url}: {error}")
        return 1
    print(f"{url}: {status}")
    return int(status >= 500)


if __name__ == "__main__":
    sys.exit(main())
