"""Settings say what is wrong with them, and never show a secret."""

import pytest

from sidecar.remote.settings import (
    RESERVED_HEADERS,
    Authorization,
    BasicAuth,
    HeaderValues,
    HttpSettings,
    Secret,
    TlsConfig,
)

URL = "http://127.0.0.1:9090"


def test_no_representation_shows_a_secret() -> None:
    settings = HttpSettings(
        "https://127.0.0.1:1/p",
        headers={"X-Token": "canary"},
        http_headers={"X-Key": HeaderValues(secrets=(Secret("canary"),))},
        basic_auth=BasicAuth("user", Secret("canary")),
        tls_config=TlsConfig(cert="pem", key=Secret("canary")),
        proxy_url="http://u:canary@127.0.0.1:3128",
    )
    in_url = HttpSettings("http://user:canary@127.0.0.1:9090/p?token=canary")
    bearer = HttpSettings(URL, authorization=Authorization(credentials=Secret("canary")))
    for one in (settings, in_url, bearer):
        assert "canary" not in f"{one!r} {one} {one.display_url} {one.tls_config}"


@pytest.mark.parametrize("name", sorted(RESERVED_HEADERS))
def test_no_header_of_the_protocol_can_be_overridden(name: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        HttpSettings(URL, headers={name.title(): "x"})
    with pytest.raises(ValueError, match="reserved"):
        HttpSettings(URL, http_headers={name.upper(): HeaderValues(("x",))})


@pytest.mark.parametrize(
    ("header", "value"),
    [("X", "a\r\nSet-Cookie: b"), ("X", "a\x00"), ("X", "a\x7f"), ("X Y", "a"), ("", "a")],
)
def test_a_header_cannot_carry_another_line(header: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"control characters|not a header name") as caught:
        HttpSettings(URL, headers={header: value})
    assert "Set-Cookie" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "ftp://a", "localhost:9090", "http://", "http://h:99999", "http://[::1", "//a"]
)
def test_a_url_is_http_with_a_host(url: str) -> None:
    with pytest.raises(ValueError, match="must be http"):
        HttpSettings(url)


def test_a_bad_url_is_named_without_its_password() -> None:
    with pytest.raises(ValueError, match="must be http") as caught:
        HttpSettings("htp://user:canary@host")
    assert "canary" not in str(caught.value)


def test_only_one_way_to_authenticate() -> None:
    basic, bearer = BasicAuth("u"), Authorization(credentials=Secret("x"))
    with pytest.raises(ValueError, match="at most one"):
        HttpSettings(URL, basic_auth=basic, authorization=bearer)
    with pytest.raises(ValueError, match="exclude each other"):
        HttpSettings("http://u:p@h", basic_auth=basic)


@pytest.mark.parametrize(
    "build",
    [
        lambda: BasicAuth(),
        lambda: BasicAuth("u", username_file="f"),
        lambda: BasicAuth("u", Secret("p"), password_file="f"),
        lambda: Authorization(),
        lambda: Authorization(credentials=Secret("x"), credentials_file="f"),
        lambda: Authorization("Basic", Secret("x")),
        lambda: Authorization("Bea rer", Secret("x")),
        lambda: TlsConfig(ca="a", ca_file="b"),
        lambda: TlsConfig(cert="a"),
        lambda: TlsConfig(key_file="a"),
        lambda: TlsConfig(min_version="TLS9"),
        lambda: HttpSettings(URL, timeout_s=0),
        lambda: HttpSettings(URL, timeout_s=float("nan")),
        lambda: HttpSettings(URL, no_proxy="a"),
        lambda: HttpSettings(URL, proxy_url="http://p", proxy_from_environment=True),
    ],
)
def test_settings_that_contradict_themselves_are_refused(build: object) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=r"\w"):
        build()


def test_secrets_compare_by_value_and_hash_alike() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
