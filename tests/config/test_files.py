"""A folder of configuration files: wrong ones with one mistake each, and good ones.

A wrong file begins with the problems it gives, one ``# `` line each, in order and word by word.
"""

from pathlib import Path

import pytest

from sidecar.config import SentinelConfig, load
from sidecar.errors import ConfigError

FILES = Path(__file__).parent / "files"
BAD = sorted(FILES.glob("*.bad.yml"))
GOOD = sorted(FILES.glob("*.good.yml"))


def expected_problems(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    problems = []
    while lines and lines[0].startswith("# "):
        problems.append(lines.pop(0).removeprefix("# "))
    return problems


def test_the_folder_is_found() -> None:
    assert len(BAD) > 80
    assert len(GOOD) >= 3


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.name.removesuffix(".bad.yml"))
def test_a_wrong_file_gives_exactly_its_problems(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert [str(problem) for problem in caught.value.problems] == expected_problems(path)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.name.removesuffix(".bad.yml"))
def test_a_problem_never_shows_a_secret(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert "hunter" not in str(caught.value)
    assert "hunter" not in repr(caught.value)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name.removesuffix(".good.yml"))
def test_a_good_file_loads(path: Path) -> None:
    assert load(path, {}).watches


def test_the_smallest_file_is_all_defaults() -> None:
    config = load(FILES / "smallest.good.yml", {})
    assert config == SentinelConfig(watches=config.watches)
    [watch] = config.watches
    assert (watch.metric, watch.granularity, watch.horizon) == ("up", "1m", "5m")
    assert (watch.lookback, watch.cron) == ("30m", "0 */6 * * *")


def test_every_value_of_the_full_file_arrives() -> None:
    config = load(FILES / "everything.good.yml", {})
    assert config.emitter_host == "0.0.0.0"
    assert config.scrape_timeout_s == 15.0
    assert config.external_labels == {"cluster": "eu", "replica": "0"}
    node, http = config.watches
    assert str(node.selector) == (
        'node_load1{canary="no", job="node", version="1.10", instance=~"web.+", env!="dev"}'
    )
    assert node.model_params == {"p": 2, "d": 1, "q": 0}
    assert node.steps == (1, 20)
    assert http.steps == (1, 2, 3, 4, 5)
    assert node.published.model_info is True
    assert http.published.model_info is False
    assert node.published.actual is False
    assert http.published.actual is True
    assert http.published.version_label is True
    assert (node.training_window_ms, node.query_offset_ms) == (14 * 86_400_000, 5_000)
    assert http.model_name == "sgd"


def test_both_ends_are_reached_as_configured() -> None:
    config = load(FILES / "everything.good.yml", {})
    read, write, api = config.read_http(), config.write_http(), config.api_http()
    assert read.url == "https://read.example.org/api/v1/read"
    assert api.url == "https://prometheus.example.org/prefix"
    assert (read.timeout_s, write.timeout_s, api.timeout_s) == (60.0, 30.0, 60.0)
    assert read.authorization == api.authorization
    assert read.authorization is not None
    assert read.authorization.credentials_file == "/run/secrets/token"
    assert [secret.reveal() for secret in read.http_headers["X-Token"].secrets] == ["two"]
    assert read.headers == {"X-Scope-OrgID": "team-a"}
    assert (read.proxy_url, read.no_proxy) == ("http://proxy.example.org:3128", "localhost")
    assert read.follow_redirects is False
    assert read.tls_config is not None
    assert (read.tls_config.min_version, read.tls_config.server_name) == ("TLS12", "prometheus")
    assert write.basic_auth is not None
    assert write.basic_auth.password is not None
    assert write.basic_auth.password.reveal() == "hunter2"
    assert write.tls_config is not None
    assert write.tls_config.ca.startswith("-----BEGIN")
    assert write.proxy_from_environment is True
    assert "hunter2" not in repr(config) + repr(write) + str(config)


def test_several_endpoints_stand_in_a_list_and_the_one_that_is_read_from_comes_first() -> None:
    config = load(FILES / "several_endpoints.good.yml", {})
    ends = config.write_ends()
    assert [(end.name, end.is_source) for end in ends] == [
        ("prometheus", True),
        ("long-term", False),
        ("other-team", False),
    ]
    assert ends[0].http == config.write_http()
    assert ends[0].http.url == "http://prometheus.example.org:9090/api/v1/write"
    assert ends[0].api is not None
    assert ends[0].api.url == "http://prometheus.example.org:9090"
    assert ends[1].http.url == "https://mimir.example.org/api/v1/push"
    assert ends[1].api is None
    assert [(end.protocol, end.on_client_error) for end in ends] == [
        ("1.0", "hold"),
        ("auto", "hold"),
        ("1.0", "drop"),
    ]


def test_settings_can_be_shared_by_an_anchor() -> None:
    one, other = load(FILES / "shared_defaults.good.yml", {}).watches
    assert (one.metric, one.horizon_steps, one.n_lags) == ("node_load1", 4, 20)
    assert (other.metric, other.horizon_steps, other.n_lags) == ("node_load5", 8, 20)
