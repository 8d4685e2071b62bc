"""Settings from environment variables, over a file or without one."""

from pathlib import Path

import pytest

from sidecar.config import SentinelConfig, load
from sidecar.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sentinel.yml"
    path.write_text(
        "prometheus_url: http://file:9090\n"
        "publish: {model_info: false}\n"
        "watches:\n  - {metric: up, labels: {job: api}}\n  - metric: node_load1\n"
    )
    return path


def loaded(path: Path | None, **environ: str) -> SentinelConfig:
    return load(path, environ)


def test_a_variable_overrides_the_file_at_any_depth(file: Path) -> None:
    config = loaded(
        file,
        SENTINEL_PROMETHEUS_URL="http://env:9090",
        SENTINEL_WATCHES__1__HORIZON="10m",
        SENTINEL_WATCHES__0__LABELS__ENV="prod",
        SENTINEL_REMOTE_WRITE__BASIC_AUTH__USERNAME="me",
        SENTINEL_EMIT_CONFIDENCE_BOUNDS="true",
        SENTINEL_EMITTER_PORT="9000",
    )
    assert config.prometheus_url == "http://env:9090"
    assert (config.emitter_port, config.emit_confidence_bounds) == (9000, True)
    one, other = config.watches
    assert one.labels == {"job": "api", "env": "prod"}
    assert (one.horizon, other.horizon) == ("5m", "10m")
    assert config.publish.model_info is False
    basic = config.write_http().basic_auth
    assert basic is not None
    assert basic.username == "me"


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ("{url: http://a/x}", {"SENTINEL_REMOTE_WRITE__URL": "http://e/x"}, ["http://e/x"]),
        ("[{url: http://a/x}]", {"SENTINEL_REMOTE_WRITE__URL": "http://e/x"}, ["http://e/x"]),
        ("{url: http://a/x}", {"SENTINEL_REMOTE_WRITE__0__URL": "http://e/x"}, ["http://e/x"]),
        (
            "{url: http://a/x}",
            {"SENTINEL_REMOTE_WRITE__1__URL": "http://e/x", "SENTINEL_REMOTE_WRITE__1__NAME": "e"},
            ["http://a/x", "http://e/x"],
        ),
        (
            "[{url: http://a/x}, {url: http://b/x, name: b}]",
            {"SENTINEL_REMOTE_WRITE__1__URL": "http://e/x"},
            ["http://a/x", "http://e/x"],
        ),
        (
            "{url: http://a/x}",
            {"SENTINEL_REMOTE_WRITE": "[{url: http://e/x}, {url: http://f/x, name: f}]"},
            ["http://e/x", "http://f/x"],
        ),
    ],
)
def test_an_endpoint_is_named_alone_or_by_its_number(
    tmp_path: Path, given: str, environ: dict[str, str], expected: list[str]
) -> None:
    path = tmp_path / "sentinel.yml"
    path.write_text(f"remote_write: {given}\nwatches: [{{metric: up}}]\n")
    assert [end.http.url for end in load(path, environ).write_ends()] == expected


def test_of_several_endpoints_the_number_must_be_said(tmp_path: Path) -> None:
    path = tmp_path / "sentinel.yml"
    path.write_text("remote_write: [{}, {name: b, url: http://b/x}]\nwatches: [{metric: up}]\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {"SENTINEL_REMOTE_WRITE__URL": "http://e/x"})
    assert [str(problem) for problem in caught.value.problems] == [
        "SENTINEL_REMOTE_WRITE__URL: remote_write has 2 entries: say which by its number, such as "
        "SENTINEL_REMOTE_WRITE__0__URL"
    ]


def test_no_file_is_needed() -> None:
    config = loaded(
        None,
        SENTINEL_PROMETHEUS_URL="http://p:9090",
        SENTINEL_WATCHES__0__METRIC="up",
        SENTINEL_WATCHES__1__METRIC="node_load1",
        SENTINEL_WATCHES__1__MATCHERS="['job=~\"a|b\"']",
    )
    assert [str(watch.selector) for watch in config.watches] == ["up", 'node_load1{job=~"a|b"}']


def test_a_list_a_mapping_and_a_section_can_be_given_whole(file: Path) -> None:
    config = loaded(
        file,
        SENTINEL_WATCHES="[{metric: a, horizon: 3m}, {metric: b}]",
        SENTINEL_EXTERNAL_LABELS="{cluster: eu}",
        SENTINEL_PUBLISH="{steps: [1]}",
        SENTINEL_WATCHES__1__MODEL_PARAMS="{level: 0.9}",
        SENTINEL_WATCHES__0__MODEL_PARAMS__LEVEL="0.8",
    )
    assert [(watch.metric, watch.steps) for watch in config.watches] == [("a", (1,)), ("b", (1,))]
    assert config.external_labels == {"cluster": "eu"}
    assert [watch.model_params for watch in config.watches] == [{"level": 0.8}, {"level": 0.9}]
    assert config.publish.model_info is True, "a section given whole replaces the file's"


def test_an_empty_variable_is_not_set(file: Path) -> None:
    assert loaded(file, SENTINEL_PROMETHEUS_URL="").prometheus_url == "http://file:9090"


def test_a_password_is_taken_as_it_is(file: Path) -> None:
    secret = "{a: b} ${HOME} # 0123"
    config = loaded(
        file,
        SENTINEL_REMOTE_READ__BASIC_AUTH__USERNAME="me",
        SENTINEL_REMOTE_READ__BASIC_AUTH__PASSWORD=secret,
    )
    basic = config.read_http().basic_auth
    assert basic is not None
    assert basic.password is not None
    assert basic.password.reveal() == secret


def test_variables_of_other_programs_are_left_alone(file: Path) -> None:
    config = loaded(
        file,
        SENTINEL_SERVICE_HOST="10.0.0.1",
        SENTINEL_PORT="tcp://10.0.0.1:8080",
        SENTINEL_PORT_8080_TCP_ADDR="10.0.0.1",
        SENTINEL_CONFIG="/etc/sentinel.yml",
        SENTINEL_TEST_PROMETHEUS="/usr/bin/prometheus",
        PROMETHEUS_URL="http://other",
    )
    assert config.prometheus_url == "http://file:9090"


def problems(path: Path | None, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    return [str(problem) for problem in caught.value.problems]


def test_a_wrong_value_names_its_variable(file: Path) -> None:
    assert problems(file, SENTINEL_WATCHES__0__HORIZON="7x") == [
        "watches[0].horizon: '7x' is not a duration: write whole numbers with units, largest "
        "first, such as '1h30m', '15s' or '500ms' (set by SENTINEL_WATCHES__0__HORIZON)"
    ]


def test_a_slip_in_a_variable_is_a_problem(file: Path) -> None:
    assert problems(file, SENTINEL_PROMETHEUS_URI="http://p", SENTINEL_WATCHES__0__HORZON="1m") == [
        "watches[0].horzon: there is no setting 'horzon' here, did you mean 'horizon'? "
        "(set by SENTINEL_WATCHES__0__HORZON)",
        "prometheus_uri: there is no setting 'prometheus_uri' here, did you mean "
        "'prometheus_url'? (set by SENTINEL_PROMETHEUS_URI)",
    ]


def test_watches_are_numbered_without_a_gap(file: Path) -> None:
    assert problems(file, SENTINEL_WATCHES__3__METRIC="x") == [
        "SENTINEL_WATCHES__3__METRIC: sets watches[3], but there are only 2 entries: number them "
        "without a gap"
    ]


def test_a_list_that_is_not_yaml_names_its_variable(file: Path) -> None:
    [problem] = problems(file, SENTINEL_WATCHES="[{metric: up}")
    assert problem.startswith("SENTINEL_WATCHES: the file is not YAML")


def test_no_watch_at_all_is_a_problem_unless_some_come_from_elsewhere() -> None:
    assert problems(None) == [
        "watches: is empty: write at least one entry, such as '- metric: node_load1'"
    ]
    assert load(None, {}, need_watches=False).watches == ()


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    [missing] = problems(tmp_path / "none.yml")
    assert "cannot be read: No such file or directory" in missing
    (tmp_path / "latin.yml").write_bytes(b"watches: [{metric: \xe9}]")
    [undecodable] = problems(tmp_path / "latin.yml")
    assert "is not UTF-8 text: byte 19 is 0xe9" in undecodable
    (tmp_path / "large.yml").write_bytes(b"#" * (5 << 20))
    assert problems(tmp_path / "large.yml") == ["the file is larger than 4 MiB"]


def test_variables_are_put_into_values(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_text(
        "prometheus_url: http://${HOST}:${PORT}\n"
        "emitter_port: ${OURS}\n"
        "watches:\n"
        "  - metric: up\n"
        "    labels: {plain: 'a$b', escaped: '$${HOST}', nested: '${NESTED}'}\n"
        "    matchers: ['job=~\"${JOB}$\"']\n"
        "    model_params:\n      level: ${LEVEL}\n"
    )
    environ = {
        "HOST": "p", "PORT": "9090", "OURS": "0", "NESTED": "${HOST}", "JOB": "api", "LEVEL": "0.9",
    }  # fmt: skip
    config = load(path, environ)
    assert (config.prometheus_url, config.emitter_port) == ("http://p:9090", 0)
    [watch] = config.watches
    assert watch.labels == {"plain": "a$b", "escaped": "${HOST}", "nested": "${HOST}"}
    assert watch.matchers == ('job=~"api$"',)
    assert watch.model_params == {"level": 0.9}
