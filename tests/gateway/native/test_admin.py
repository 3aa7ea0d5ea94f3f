"""The admin routes of a running server: access and effects."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from linear_models import weights
from live_servers import Live, Process
from served_models import build_registry
from waiting import LONG_S, wait_until

from penstock.registry.registry import Registry
from penstock.settings import Settings

KEY = "a-key-of-enough-letters"
AUTH = {"authorization": f"Bearer {KEY}"}
ROW = [0.5, -1.0, 2.0, 0.25]
Serve = Callable[..., Process]
Database = Callable[[Path], str]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def own_registry(tmp_path: Path, database: Database) -> Path:
    return build_registry(tmp_path, database(tmp_path / "registry"))


@pytest.fixture
def own_settings(own_registry: Path, base_settings: Settings, database: Database) -> Settings:
    update = {"registry": own_registry, "database_url": database(own_registry), "admin_key": KEY}
    return base_settings.model_copy(update=update)


@pytest.fixture(params=["h1", "rsgi", "asgi"])
def keyed(request: pytest.FixtureRequest, own_settings: Settings) -> Iterator[Live]:
    """A server of `vec` and `raw` that takes admin commands with the key."""
    with Live(request.param, own_settings, ("vec", "raw")) as live:
        live.http.headers.update(AUTH)
        yield live


@pytest.fixture
def whole(own_settings: Settings) -> Iterator[Live]:
    """A server of the whole registry."""
    with Live("h1", own_settings, ()) as live:
        live.http.headers.update(AUTH)
        yield live


def predict(http: httpx.Client, name: str = "vec") -> httpx.Response:
    return http.post(f"/models/{name}/predict", json={"input_data": ROW})


def order(http: httpx.Client, verb: str, model: str) -> httpx.Response:
    return http.post(f"/admin/{verb}", json={"model": model})


def problem(reply: httpx.Response, status: int, *parts: str) -> None:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert [part for part in parts if part not in reply.json()["detail"]] == [], reply.text


# Access


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer " + KEY[:-1]},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "", "x-penstock-admin-key": "wrong"},
        {"authorization": "", "x-penstock-admin-key": ""},
        {"authorization": "", "x-api-key": KEY.upper()},
        {"authorization": "", "x-penstock-admin-key": "schl\u00fcssel".encode("latin-1").decode("latin-1")},
    ],
)
def test_with_a_key_set_a_request_without_it_is_refused(keyed: Live, headers: dict[str, str]) -> None:
    reply = httpx.get(keyed.url + "/admin", headers={k: v.encode("latin-1") for k, v in headers.items()})
    problem(reply, 401, "Bearer", "X-API-Key", "X-Penstock-Admin-Key", "PENSTOCK_ADMIN_KEY", "admin.key")
    assert reply.headers["www-authenticate"].startswith("Bearer")


def test_the_key_is_accepted_as_a_bearer_token_or_in_a_header_of_its_own(keyed: Live) -> None:
    own = {"authorization": "Basic dTpw"}  # of a proxy
    for headers in (AUTH, {"authorization": f"bearer {KEY}"}, {"X-Penstock-Admin-Key": KEY}, {"X-API-Key": KEY, **own}):
        reply = httpx.get(keyed.url + "/admin", headers=headers)
        assert reply.status_code == 200
        assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:1"},
    ],
)
def test_pages_of_other_origins_are_refused_even_with_the_key(keyed: Live, headers: dict[str, str]) -> None:
    problem(keyed.http.post("/admin/drain", headers=headers), 403, "another origin")
    assert keyed.http.get("/health/ready").status_code == 200


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {}])
def test_the_pages_of_the_server_itself_may_administer_it(keyed: Live, headers: dict[str, str]) -> None:
    assert keyed.http.get("/admin", headers={"origin": keyed.url, **headers}).status_code == 200


def test_a_command_is_json_and_a_bad_one_names_the_field(keyed: Live) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    problem(keyed.http.post("/admin/load", content=b'{"model":"vec"}', headers=form), 415, "application/json")
    problem(keyed.http.post("/admin/load", json={}), 422, "model")
    problem(keyed.http.post("/admin/load", json={"model": "vec", "x": 1}), 422, "x")
    problem(order(keyed.http, "load", "../vec"), 422, "model")
    problem(order(keyed.http, "load", "/etc/passwd.onnx"), 422, "registry")
    problem(order(keyed.http, "load", "passwd.onnx"), 422, "registry")
    problem(keyed.http.post("/admin/drain", json={"wait_s": -1}), 422, "wait_s")


# Load and unload


def test_an_unloaded_model_is_not_served_until_it_is_loaded_again(keyed: Live) -> None:
    http = keyed.http
    assert predict(http).status_code == 200
    unloaded = order(http, "unload", "vec").json()
    assert "also after a restart, until it is loaded again" in unloaded.pop("note")
    assert unloaded == {"model": "vec", "unloaded": ["vec:v2.0"], "behind": 0, "persisted": True}
    problem(predict(http), 404, "unloaded by an operator", "until it is loaded again")
    assert http.get("/health/ready").status_code == 200
    assert http.get("/admin").json()["unloaded"] == ["vec"]
    assert order(http, "unload", "vec").json()["unloaded"] == []
    loaded = order(http, "load", "vec").json()
    assert (loaded["model"], loaded["variant"], loaded["behind"]) == ("vec:v2.0", "onnx-fp32", 0)
    assert loaded["persisted"] is True
    assert predict(http).status_code == 200


def test_a_model_that_was_not_named_at_the_start_can_be_loaded(keyed: Live) -> None:
    problem(keyed.http.post("/models/slow/predict", json={"input_data": ROW}), 404, "not served here")
    assert order(keyed.http, "load", "slow").json()["model"] == "slow:1.0"
    assert keyed.http.post("/models/slow/predict", json={"input_data": ROW}).status_code == 200
    assert "slow" in keyed.http.get("/admin").json()["wanted"]


def test_of_a_whole_registry_an_unloaded_model_is_not_loaded_by_the_next_request(whole: Live) -> None:
    http = whole.http
    order(http, "unload", "vec")
    problem(predict(http), 404, "was unloaded")
    problem(predict(http, "vec@stable"), 404, "was unloaded")
    with Registry(whole.settings.registry, whole.settings.database_url) as registry:
        registry.set_alias("vec", "other", "v2.0")
    whole.call(whole.service.reconcile)
    assert http.get("/health/ready").json()["reasons"] == []
    assert "vec" not in http.get("/admin").json()["wanted"]
    order(http, "load", "vec@stable")
    assert predict(http, "vec@stable").json()["model_version"] == "v1.0"


def test_one_version_can_be_unloaded_while_the_other_is_served(whole: Live) -> None:
    assert predict(whole.http, "vec@stable").status_code == 200
    assert order(whole.http, "unload", "vec:v1.0").json()["unloaded"] == ["vec:v1.0"]
    problem(predict(whole.http, "vec@stable"), 404, "vec:v1.0 was unloaded")
    assert predict(whole.http, "vec:v2.0").status_code == 200


def test_a_model_that_is_not_in_the_registry_can_be_neither_loaded_nor_unloaded(keyed: Live) -> None:
    problem(order(keyed.http, "load", "nothing"), 404, "nothing")
    problem(order(keyed.http, "unload", "nothing"), 404, "nothing")
    problem(order(keyed.http, "load", "vec:v9"), 404, "v9")
    assert keyed.http.get("/admin").json()["wanted"] == ["vec", "raw"]


def test_a_failed_load_gives_the_reason_and_changes_nothing(keyed: Live) -> None:
    file = next(Path(keyed.settings.registry).glob("slow/1.0/variants/*/model.onnx"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    problem(order(keyed.http, "load", "slow"), 409, str(file))
    state = keyed.http.get("/admin").json()
    assert (state["wanted"], state["problems"]) == (["vec", "raw"], {})
    assert keyed.http.get("/health/ready").status_code == 200


def test_requests_in_flight_are_answered_while_their_model_is_unloaded(keyed: Live) -> None:
    order(keyed.http, "load", "slow")
    replies: list[httpx.Response] = []

    def ask() -> None:
        replies.append(
            httpx.post(keyed.url + "/models/slow/predict", json={"input_data": [200, 0, 0, 0]}, timeout=LONG_S)
        )

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: keyed.service.engine.inflight)
    assert order(keyed.http, "unload", "slow").json()["unloaded"] == ["slow:1.0"]
    asking.join()
    assert replies[0].status_code == 200


@pytest.mark.parametrize("name", ["model", "my model (1)"])
def test_a_bare_file_comes_back_under_its_name(serve: Serve, registry_path: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.onnx"
    file.write_bytes(next(registry_path.glob("vec/v1.0/variants/*/model.onnx")).read_bytes())
    process = serve(str(file))
    process.wait_for()
    with httpx.Client(base_url=process.url, headers=process.auth) as http:
        unloaded = order(http, "unload", name).json()
        assert (unloaded["unloaded"], unloaded["persisted"]) == ([f"{name}:v1.0"], False)
        assert "a bare model file belongs to no registry" in unloaded["note"]
        problem(predict(http, name), 404, "was unloaded by an operator")
        assert order(http, "load", name).json()["model"] == f"{name}:v1.0"
        assert predict(http, name).status_code == 200


# Aliases


def test_an_alias_is_moved_in_the_registry_and_followed_at_once(keyed: Live) -> None:
    http = keyed.http
    assert predict(http, "vec@stable").json()["model_version"] == "v1.0"
    reply = http.put("/admin/models/vec/aliases/stable", json={"version": "v2.0"})
    assert reply.json() == {"name": "vec", "alias": "stable", "version": "v2.0", "problem": None}
    assert predict(http, "vec@stable").json()["model_version"] == "v2.0"
    with Registry(keyed.settings.registry, keyed.settings.database_url) as registry:
        assert registry.aliases("vec") == {"stable": "v2.0"}


def test_without_a_version_an_alias_means_the_highest_release_and_it_can_be_removed(keyed: Live) -> None:
    assert keyed.http.put("/admin/models/vec/aliases/newest").json()["version"] == "v2.0"
    assert keyed.http.delete("/admin/models/vec/aliases/newest").json()["version"] is None
    problem(keyed.http.delete("/admin/models/vec/aliases/newest"), 404, "newest")


def test_an_alias_of_a_missing_version_or_model_is_refused(keyed: Live) -> None:
    problem(keyed.http.put("/admin/models/vec/aliases/stable", json={"version": "v9"}), 404, "v9", "v1.0")
    problem(keyed.http.put("/admin/models/nothing/aliases/stable"), 404, "nothing")
    problem(keyed.http.put("/admin/models/vec/aliases/a%20b", json={"version": "v1.0"}), 422, "alias")


def test_an_alias_to_a_broken_version_reports_that_the_old_one_is_still_served(keyed: Live) -> None:
    assert predict(keyed.http, "vec@stable").status_code == 200
    order(keyed.http, "unload", "vec:v2.0")
    file = next(Path(keyed.settings.registry).glob("vec/v2.0/variants/*/model.onnx"))
    file.write_bytes(b"broken")
    order(keyed.http, "load", "vec:v2.0")
    problem(
        keyed.http.put("/admin/models/vec/aliases/stable", json={"version": "v2.0"}), 409, "vec@stable stays at v1.0",
        "vec:v2.0: ",
    )  # fmt: skip
    reply = keyed.http.put("/admin/models/vec/aliases/stable", json={"version": "v2.0", "force": True}).json()
    assert reply["version"] == "v2.0"
    assert reply["problem"]
    assert predict(keyed.http, "vec@stable").json()["model_version"] == "v1.0"


# Drain


def test_a_drained_server_refuses_predictions_until_the_drain_ends(keyed: Live) -> None:
    http = keyed.http
    assert http.post("/admin/drain").json() == {"draining": True, "inflight": 0, "behind": 0}
    assert predict(http).status_code == 503
    assert http.get("/health/ready").status_code == 503
    assert http.get("/health/live").status_code == 200
    assert http.get("/admin").json()["draining"] is True
    assert http.delete("/admin/drain").json()["draining"] is False
    assert predict(http).status_code == 200
    assert http.get("/health/ready").status_code == 200


def test_draining_waits_for_the_requests_in_flight(keyed: Live) -> None:
    order(keyed.http, "load", "slow")
    body = {"input_data": [200, 0, 0, 0]}
    asking = threading.Thread(target=lambda: httpx.post(keyed.url + "/models/slow/predict", json=body, timeout=LONG_S))
    asking.start()
    wait_until(lambda: keyed.service.engine.inflight)
    assert keyed.http.post("/admin/drain").json()["inflight"] == 1
    assert keyed.http.post("/admin/drain", json={"wait_s": 20}).json()["inflight"] == 0
    asking.join()


def test_a_stopping_server_does_not_resume(keyed: Live) -> None:
    keyed.call(lambda: keyed.gateway.drain(0))
    assert keyed.http.delete("/admin/drain").json()["draining"] is True


# Several processes


@pytest.fixture
def workers(serve: Serve, own_registry: Path) -> Process:
    process = serve("vec", "--registry", str(own_registry), "--workers", "2", PENSTOCK_ADMIN_KEY=KEY)
    process.wait_for()
    # every connection may go to another process: both have answered, so neither is still starting
    wait_until(lambda: len({_process_of(httpx.get(process.url + "/health")) for _ in range(24)}) == 2)
    return process


def _process_of(reply: httpx.Response) -> str:
    """What tells one process from another: the beginning of the ids that it gives to requests."""
    return reply.headers["x-request-id"].partition("-")[0]


def everywhere(process: Process, path: str, body: dict[str, Any]) -> set[int]:
    """The statuses of many connections, which are spread over the processes."""
    return {httpx.post(process.url + path, json=body).status_code for _ in range(24)}


def test_every_process_of_a_server_has_followed_before_the_reply(workers: Process) -> None:
    with httpx.Client(base_url=workers.url, headers=AUTH, timeout=LONG_S) as http:
        slow = ("/models/slow/predict", {"input_data": ROW})
        assert everywhere(workers, *slow) == {404}
        assert order(http, "load", "slow").json()["behind"] == 0
        assert everywhere(workers, *slow) == {200}
        assert order(http, "unload", "slow").json()["behind"] == 0
        assert everywhere(workers, *slow) == {404}
        assert http.post("/admin/drain").json() == {"draining": True, "inflight": 0, "behind": 0}
        assert everywhere(workers, "/models/vec/predict", {"input_data": ROW}) == {503}
        assert http.delete("/admin/drain").json()["behind"] == 0
        assert everywhere(workers, "/models/vec/predict", {"input_data": ROW}) == {200}


def test_predictions_after_a_reload_are_those_of_the_model(keyed: Live) -> None:
    order(keyed.http, "unload", "vec")
    order(keyed.http, "load", "vec:v1.0")
    expected = int((weights(0).T @ ROW).argmax())
    assert keyed.http.post("/models/vec/predict", json={"input_data": ROW}).json()["predictions"] == [expected]
